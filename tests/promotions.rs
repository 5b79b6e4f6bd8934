//! A server that is promoted between two of the questions it is asked: made up, for no real one can be made to do that.
mod common;
mod model;

use common::meeting::{Source, receiver};
use common::walsender::{Session, parameter, rows};
use common::{Archive, Lsn, Walsender};
use model::wal::{Shape, Wal};

/// Bytes of WAL that are received before the promotion.
const RECEIVED: usize = 300_000;

#[test]
fn a_lagging_standby_that_is_promoted_while_it_is_asked_is_asked_again() {
    let (source, archive) = (source(), Archive::new());
    let end = source.start + RECEIVED as u64;
    let log = source.bytes.clone();
    let server = Walsender::start(source.identity.clone(), move |session| {
        if session.number == 1 {
            let start = session.stream()?;
            session.listen();
            session.send_wal(start, &log[..RECEIVED])?;
            session.wait_flushed(end - 8000);
            return session.rest();
        }
        session.let_in()?;
        session.send(&parameter("in_hot_standby", "on"))?;
        let asked = std::cell::Cell::new(0);
        let answer = |session: &Session, command: &str| {
            let position = Lsn(end - 100_000).to_string();
            let identifier = session.system_identifier();
            match command {
                "IDENTIFY_SYSTEM" => {
                    asked.set(asked.get() + 1);
                    let timeline = asked.get().to_string();
                    Some(rows(&[&[&identifier, &timeline, &position]]))
                }
                "SHOW wal_segment_size" => {
                    Some([parameter("in_hot_standby", "off"), rows(&[&["1MB"]])].concat())
                }
                _ => None,
            }
        };
        loop {
            let command = session.command()?;
            let answer = answer(session, &command).unwrap_or_else(|| session.usual_answer(&command));
            session.send(&answer)?;
        }
    });
    let receiver = receiver(&server, &archive, &["-v"]);
    receiver.wait_for_line("detail: It has been promoted to timeline 2 since then.");
    receiver.wait_for_lines("the server is behind what is stored", 2);
    let exit = receiver.stop();
    assert_eq!(exit.code, Some(0), "{exit:#?}");
}

/// A server whose log does not change.
fn source() -> Source {
    let wal = Wal::new(
        1,
        Shape {
            length: 1 << 19,
            switches: 0,
            longest: 300,
            deaths: 0,
            ..Shape::default()
        },
    );
    Source::new(wal.shape().system_identifier, wal.start(), wal.all())
}
