//! A server that means no good, or is none: whatever it says, nothing wrong is acknowledged, no memory is given away,
//! and it is refused in one clear line.
mod common;
#[path = "hostile/login.rs"]
mod login;
mod model;

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use common::meeting::{Meeting, Source, assert_holds_only, meet, receiver};
use common::walsender::{
    Session, announced, asked_position, authentication, copy_both, copy_data, data_row, error, keepalive,
    message, notice, parameter, ready, rows, wal_head, wal_message,
};
use common::{Archive, Http, Lsn, Walsender};
use model::wal::{Shape, Wal};

/// More than any script sends, and far more than a receiver may keep.
const FLOOD: usize = 256 << 20;

/// Seconds after which a receiver leaves a server that goes on without getting anywhere.
const IMPATIENT: &str = "--receive-timeout=2";

/// Two segments and a bit; the server says that it stands in the first.
fn source() -> &'static Source {
    static SOURCE: OnceLock<Source> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let wal = Wal::new(
            1,
            Shape {
                length: 5 << 19,
                switches: 0,
                // A stream begins again at a record: near where the last one ended.
                longest: 300,
                deaths: 0,
                ..Shape::default()
            },
        );
        source_of(&wal)
    })
}

/// A server that has this log.
fn source_of(wal: &Wal) -> Source {
    Source::new(wal.shape().system_identifier, wal.start(), wal.all())
}

/// The source's WAL between two distances from its start.
fn wal(from: usize, to: usize) -> &'static [u8] {
    &source().bytes[from..to]
}

/// The position so far behind the start.
fn at(distance: usize) -> u64 {
    source().start + distance as u64
}

/// Good WAL, then what the server has made up; then it says nothing more.
fn streamed(made_up: Vec<u8>) -> Meeting {
    meet(source(), &[], move |session| {
        let start = session.stream()?;
        session.listen();
        session.send_wal(start, wal(0, 10_000))?;
        session.send(&made_up)?;
        session.hear_out()
    })
}

/// The receiver is let in; then the server answers a command that begins so in its own way.
fn answered(beginning: &'static str, answer: Vec<u8>) -> Meeting {
    meet(source(), &[], move |session| {
        session.let_in()?;
        session.stream_saying(|command| command.starts_with(beginning).then(|| answer.clone()))?;
        session.hear_out()
    })
}

// ---- an honest one, to see that the others are refused for what they do ----

#[test]
fn an_honest_script_is_received_to_the_end() {
    let end = Lsn(at(wal(0, 2_000_000).len())).to_string();
    let meeting = meet(source(), &["--endpos", &end], |session| {
        let start = session.stream()?;
        session.listen();
        session.send_wal(start, &source().bytes)?;
        session.hear_out()
    });
    meeting.assert_content("an honest server");
    assert!(meeting.flushed >= at(2_000_000), "{:#?}", meeting.exit);
}

#[test]
fn wal_that_comes_together_with_the_beginning_of_the_stream_is_all_received() {
    // The first stream ends a little before a segment does; the second begins there, all at once.
    for (left, piece, length) in [
        (100, 8000, 5_000),
        (100, 8000, 9_000),
        (100, 8000, 13_000),
        (3000, 4000, 7_000),
        (5000, 100_000, 27_000),
    ] {
        let (archive, end) = (Archive::new(), Lsn(at(1_999_999)));
        let mut whole = source().clone();
        whole.identity.flushed = Lsn(at(whole.bytes.len())).to_string();
        let server = Walsender::start(whole.identity.clone(), move |session| {
            session.let_in()?;
            let command = loop {
                let command = session.command()?;
                if command.starts_with("START_REPLICATION") {
                    break command;
                }
                let answer = session.usual_answer(&command);
                session.send(&answer)?;
            };
            session.listen();
            let from = (asked_position(&command) - at(0)) as usize;
            let to = match session.number {
                1 => (1 << 20) - left,
                _ => source().bytes.len(),
            };
            assert_eq!(from > 0, session.number > 1, "where the last stream ended");
            // A long message before has the receiver make room, and then read much at once.
            let long = notice("NOTICE", &"long ".repeat(length));
            let mut together = [long, copy_both()].concat();
            for (index, payload) in wal(from, to).chunks(piece).enumerate() {
                let start = at(from + index * piece);
                together.extend(wal_message(start, at(to), payload));
            }
            session.send(&together)?;
            if session.number == 1 && !session.wait_flushed(at(to - 1000)) {
                panic!("the first stream is not acknowledged");
            }
            if session.number == 1 {
                Ok(())
            } else {
                session.hear_out()
            }
        });
        let (start, end) = (Lsn(at(0)).to_string(), end.to_string());
        let range = ["--start-lsn", &start, "--endpos", &end, "--verify=off"];
        let exit = receiver(&server, &archive, &range).finish();
        assert_eq!((exit.code, server.connections()), (Some(0), 2), "{exit:#?}");
        assert_holds_only("all at once", &archive, &whole, server.flushed());
    }
}

// ---- WAL ----

#[test]
fn wal_that_does_not_go_on_where_the_last_ended_is_refused() {
    let expected = format!("expected it at {}", Lsn(at(10_000)));
    let elsewhere: [(&str, u64, &[u8]); 7] = [
        ("one byte ahead", at(10_001), wal(10_001, 12_000)),
        ("a segment ahead", at(1 << 20), wal(1 << 20, 1_100_000)),
        ("one byte back", at(9_999), wal(9_999, 12_000)),
        ("the same again", at(0), wal(0, 10_000)),
        ("something else again", at(0), &[0x5a; 10_000]),
        ("before the start", at(0) - (1 << 20), wal(0, 10_000)),
        ("at the end of all positions", u64::MAX - 5, wal(0, 100)),
    ];
    for (what, start, payload) in elsewhere {
        let got = format!("got WAL data at {}", Lsn(start));
        streamed(wal_message(start, start, payload)).assert_refused(what, &[&got, &expected]);
    }
}

#[test]
fn a_stream_that_does_not_begin_where_it_was_asked_to_is_refused() {
    for (what, start) in [
        ("above", at(1 << 20)),
        ("below", at(0) - (1 << 20)),
        ("at zero", 0),
    ] {
        let meeting = meet(source(), &[], move |session| {
            session.stream()?;
            session.send(&wal_message(start, start + 100, wal(0, 100)))?;
            session.hear_out()
        });
        meeting.assert_refused(what, &["got WAL data at", "expected it at"]);
        assert_eq!(meeting.flushed, 0, "{what}");
    }
}

#[test]
fn lengths_that_no_message_has_are_refused() {
    let head = wal_head(at(10_000), at(10_000));
    for length in [0, 1, 2, 3, 4, 28, 1 << 27, i32::MAX as u32, 1 << 31, u32::MAX] {
        streamed(announced(b'd', length, &head)).assert_refused(&format!("CopyData of {length} bytes"), &[]);
    }
    for tag in *b"ENSA" {
        for length in [0, 3, 70_000, 1 << 30, u32::MAX] {
            let what = format!("{} of {length} bytes", tag.escape_ascii());
            streamed(announced(tag, length, &[b'M'; 100])).assert_refused(&what, &["message"]);
        }
    }
    streamed(message(b'c', b"more")).assert_refused("CopyDone with content", &["unexpected message \"c\""]);
    for body in [&b"k"[..], b"k123", &[b'k'; 17], &[b'k'; 19], &[b'k'; 60_000]] {
        streamed(copy_data(body)).assert_refused("a keepalive", &["keepalive with"]);
    }
}

#[test]
fn tags_that_do_not_belong_into_a_stream_are_refused() {
    for tag in *b"WGHIKRVdsnt123x\0\x1b\xff" {
        let what = format!("tag {}", tag.escape_ascii());
        streamed(message(tag, b"")).assert_refused(&what, &[]);
    }
    for kind in *b"rpzX\0\x1b\xff" {
        let what = format!("CopyData of kind {}", kind.escape_ascii());
        streamed(copy_data(&[kind; 30])).assert_refused(&what, &["unrecognized streaming header"]);
    }
}

#[test]
fn a_message_that_breaks_off_leaves_what_came_before() {
    let whole = wal_message(at(10_000), at(12_000), wal(10_000, 12_000));
    for length in [1, 4, 5, 6, 29, 30, 31, 1000, whole.len() - 1] {
        let piece = whole[..length].to_vec();
        let meeting = meet(source(), &[], move |session| {
            let start = session.stream()?;
            session.listen();
            session.send_wal(start, wal(0, 10_000))?;
            session.send(&piece)
        });
        let what = format!("the first {length} bytes of a message");
        meeting.assert_refused(&what, &["closed the connection unexpectedly"]);
    }
}

#[test]
fn messages_without_content_do_no_harm() {
    let nothing = wal_message(at(10_000), at(10_000), b"");
    let meeting = meet(
        source(),
        &["--endpos", &Lsn(at(19_999)).to_string()],
        move |session| {
            let start = session.stream()?;
            session.listen();
            session.send_wal(start, wal(0, 10_000))?;
            session.flood(&nothing, 8 << 20)?;
            session.send_wal(at(10_000), wal(10_000, 20_000))?;
            session.hear_out()
        },
    );
    meeting.assert_content("a row of empty messages");
}

#[test]
fn a_server_that_boasts_of_wal_it_does_not_send_gets_what_it_sent_acknowledged() {
    for server_end in [u64::MAX, 0, at(0)] {
        let end = Lsn(at(199_999)).to_string();
        let meeting = meet(source(), &["--endpos", &end], move |session| {
            let start = session.stream()?;
            session.listen();
            session.send(&keepalive(server_end, true))?;
            session.send(&wal_message(start, server_end, wal(0, 50_000)))?;
            assert!(session.wait_flushed(at(40_000)), "what was sent is acknowledged");
            session.send(&keepalive(server_end, false))?;
            session.send_wal(at(50_000), wal(50_000, 200_000))?;
            session.hear_out()
        });
        meeting.assert_content(&format!("a server that is at {server_end:X}"));
    }
}

#[test]
fn a_clock_that_is_out_of_its_mind_does_no_harm() {
    let times = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    let mut wal = Wal::empty(3, Shape::default());
    for time in times {
        let commit = [&[255, 8][..], &time.to_le_bytes()].concat();
        wal.put(1, 0, &commit, Some(time));
    }
    wal.record(1000);
    // Commits behind what the server had at the beginning are timed.
    let mut source = source_of(&wal);
    source.identity.flushed = Lsn(wal.start()).to_string();
    let (server_end, bytes) = (wal.end(), source.bytes.clone());
    let archive = Archive::new();
    let server = Walsender::start(source.identity.clone(), move |session| {
        let start = session.stream()?;
        session.listen();
        for time in times {
            session.send(&at_time(keepalive(start, true), time))?;
        }
        session.send(&at_time(wal_message(start, server_end, &bytes), i64::MAX))?;
        session.hear_out()
    });
    let receiver = receiver(&server, &archive, &["--listen=127.0.0.1:0", "--latency-report"]);
    let http = Http::of(&receiver);
    http.wait_metric("walring_transactions_total", |count| count >= times.len() as f64);
    http.wait_metric("walring_durable_seconds_count", |count| {
        count >= times.len() as f64
    });
    assert_eq!(
        (http.get("/metrics").code, http.get("/v1/status").code),
        (200, 200)
    );
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["panicked"]), "{exit:#?}");
    assert_holds_only("clocks", &archive, &source, server.flushed());
}

/// The message as if it was sent then.
fn at_time(mut message: Vec<u8>, time: i64) -> Vec<u8> {
    let place = match message[5] {
        b'w' => 22,
        _ => 14,
    };
    message[place..place + 8].copy_from_slice(&time.to_be_bytes());
    message
}

// ---- floods ----

#[test]
fn questions_without_end_are_answered_in_bounds_even_if_nobody_reads_the_answers() {
    let question = keepalive(at(10_000), true);
    let meeting = meet(source(), &[], move |session| {
        let start = session.stream()?;
        session.send_wal(start, wal(0, 10_000))?;
        session.flood(&question, 16 << 20)
    });
    meeting.assert_refused("questions", &["WAL stream"]);
}

#[test]
fn questions_without_end_do_not_hold_up_wal() {
    let question = keepalive(at(10_000), true).repeat(1000);
    let meeting = meet(
        source(),
        &["--endpos", &Lsn(at(1_999_999)).to_string()],
        move |session| {
            session.stream()?;
            session.listen();
            for from in (0..2_000_000).step_by(10_000) {
                session.send(&wal_message(
                    at(from),
                    at(from + 10_000),
                    wal(from, from + 10_000),
                ))?;
                session.send(&question)?;
            }
            session.hear_out()
        },
    );
    meeting.assert_content("questions between WAL");
}

#[test]
fn notices_without_end_neither_fill_memory_nor_the_log() {
    let talk = notice("WARNING", "look here");
    let copied = talk.clone();
    let before = meet(source(), &[IMPATIENT], move |session| {
        session.startup()?;
        session.send(&authentication(0, b""))?;
        session.flood(&talk, FLOOD)
    });
    before.assert_refused("notices before the first command", &[]);
    let within = meet(source(), &[], move |session| {
        session.stream()?;
        session.flood(&copied, 32 << 20)
    });
    within.assert_refused("notices in the stream", &[]);
    for meeting in [before, within] {
        let lines = meeting.exit.stderr.len();
        assert!(lines < 200, "{lines} lines were logged");
        assert!(
            meeting
                .exit
                .has_line_with(&["warning: server: WARNING:  look here"]),
            "{:#?}",
            meeting.exit
        );
    }
}

#[test]
fn parameters_without_end_do_not_fill_memory() {
    let meeting = meet(source(), &[IMPATIENT], |session| {
        session.startup()?;
        session.send(&authentication(0, b""))?;
        let text = "x".repeat(1000);
        for number in 0..FLOOD / 1000 {
            session.send(&parameter(&format!("parameter_{number}"), &text))?;
        }
        Ok(())
    });
    meeting.assert_refused("parameters", &[]);
}

#[test]
fn rows_without_end_do_not_fill_memory() {
    let large = data_row(&["x".repeat(1 << 20).as_str()]);
    for row in [large, data_row(&["1"])] {
        let meeting = meet(source(), &[IMPATIENT], move |session| {
            up_to(session, "IDENTIFY_SYSTEM")?;
            session.flood(&row, FLOOD)
        });
        meeting.assert_refused("rows", &["server sent more"]);
    }
}

#[test]
fn a_server_that_never_reads_or_never_answers_is_left() {
    let steps: [fn(&mut Session) -> io::Result<()>; 4] = [
        |_| Ok(()),
        |session| {
            session.startup()?;
            session.send(&authentication(0, b""))
        },
        |session| session.let_in(),
        |session| up_to(session, "START_REPLICATION"),
    ];
    for (number, step) in steps.into_iter().enumerate() {
        let meeting = meet(source(), &[IMPATIENT], move |session| {
            step(session)?;
            session.ignore()
        });
        meeting.assert_refused(&format!("silence at step {number}"), &["time"]);
    }
}

#[test]
fn a_server_that_trickles_is_heard_as_long_as_it_does() {
    let message = wal_message(at(10_000), at(40_000), wal(10_000, 40_000));
    let end = Lsn(at(39_000)).to_string();
    let meeting = meet(
        source(),
        &["--receive-timeout=3", "--endpos", &end],
        move |session| {
            let start = session.stream()?;
            session.listen();
            session.send_wal(start, wal(0, 10_000))?;
            let (slow, rest) = message[20..].split_at(15);
            session.send(&message[..20])?;
            for byte in slow {
                session.send(&[*byte])?;
                std::thread::sleep(Duration::from_millis(400));
            }
            session.send(rest)?;
            session.hear_out()
        },
    );
    meeting.assert_content("a trickle");
}

// ---- answers ----

/// Lets the client in and answers honestly until it says this, which is not answered.
fn up_to(session: &mut Session, beginning: &str) -> io::Result<()> {
    session.let_in()?;
    loop {
        let command = session.command()?;
        if command.starts_with(beginning) {
            return Ok(());
        }
        let answer = session.usual_answer(&command);
        session.send(&answer)?;
    }
}

#[test]
fn an_identity_that_no_server_has_is_refused() {
    let honest = &source().identity;
    let (id, lsn) = (honest.system_identifier.as_str(), honest.flushed.as_str());
    let answers: [(&[&str], &str); 15] = [
        (&["", "1", lsn], "could not parse system identifier"),
        (&["-1", "1", lsn], "could not parse system identifier"),
        (
            &["18446744073709551616", "1", lsn],
            "could not parse system identifier",
        ),
        (&[id, "0", lsn], "timeline"),
        (&[id, "-1", lsn], "could not parse timeline"),
        (&[id, "4294967296", lsn], "could not parse timeline"),
        (&[id, "one", lsn], "could not parse timeline"),
        (&[id, "1", ""], "write-ahead log location"),
        (&[id, "1", "0"], "write-ahead log location"),
        (&[id, "1", "0/0/0"], "write-ahead log location"),
        (&[id, "1", "100000000/0"], "write-ahead log location"),
        (&[id, "1", "FFFFFFFF/FFFFFFFF"], "write-ahead log location"),
        (&[id, "1"], "could not identify system: got 1 rows and 2 fields"),
        (&[], "could not identify system: got 1 rows and 0 fields"),
        (&[id, "1", lsn, "postgres"], "unexpectedly database specific"),
    ];
    for (row, words) in answers {
        answered("IDENTIFY_SYSTEM", rows(&[row])).assert_refused(&format!("{row:?}"), &[words]);
    }
    let row: &[&str] = &[id, "1", lsn];
    for wrong in [rows(&[]), rows(&[row, row])] {
        answered("IDENTIFY_SYSTEM", wrong)
            .assert_refused("another number of rows", &["could not identify system"]);
    }
}

#[test]
fn a_segment_size_that_no_server_has_is_refused() {
    for size in [
        "0",
        "3",
        "16",
        "0MB",
        "3MB",
        "2GB",
        "2048MB",
        "-1MB",
        "1TB",
        "99999999999999999999MB",
        "MB",
        "",
    ] {
        let meeting = answered("SHOW wal_segment_size", rows(&[&[size]]));
        meeting.assert_refused(&format!("segments of {size:?}"), &["WAL segment size"]);
    }
    for mode in ["", "rwx", "0o700", "-700", "99999999999999"] {
        let meeting = answered("SHOW data_directory_mode", rows(&[&[mode]]));
        meeting.assert_refused(
            &format!("mode {mode:?}"),
            &["group access flag could not be parsed"],
        );
    }
}

#[test]
fn rows_that_contradict_themselves_are_refused() {
    let bodies: [&[u8]; 8] = [
        b"",
        b"\0",
        b"\xff\xff",
        b"\0\x01",
        b"\0\x01\0\0",
        b"\0\x01\0\0\0\x09abc",
        b"\0\x01\x7f\xff\xff\xffabc",
        b"\0\x01\0\0\0\x01abc",
    ];
    for body in bodies {
        let answer = [message(b'D', body), ready()].concat();
        answered("SHOW", answer).assert_refused(&format!("a row {}", body.escape_ascii()), &[]);
    }
    let null = [message(b'D', b"\0\x01\xff\xff\xff\xff"), ready()].concat();
    answered("SHOW", null).assert_refused("NULL", &["server sent NULL"]);
    let latin = [message(b'D', b"\0\x01\0\0\0\x01\xe4"), ready()].concat();
    answered("SHOW", latin).assert_refused("no UTF-8", &["unknown encoding"]);
}

#[test]
fn answers_of_the_wrong_kind_are_refused() {
    let cases: [(&str, &str, Vec<u8>); 7] = [
        ("streaming unasked", "SHOW", copy_both()),
        ("no answer at all", "SHOW", ready()),
        ("an unknown tag", "IDENTIFY", message(b'?', b"")),
        ("a length that is none", "IDENTIFY", announced(b'D', 3, b"")),
        (
            "a gigabyte of error",
            "IDENTIFY",
            announced(b'E', 1 << 30, b"SERROR\0"),
        ),
        (
            "four gigabytes of row",
            "IDENTIFY",
            announced(b'D', u32::MAX, b""),
        ),
        ("no stream", "START_REPLICATION", ready()),
    ];
    for (what, command, answer) in cases {
        answered(command, answer).assert_refused(what, &[]);
    }
}

#[test]
fn a_stream_that_begins_twice_is_refused() {
    let twice = [copy_both(), copy_both()].concat();
    answered("START_REPLICATION", twice).assert_refused("twice", &["unexpected message \"W\""]);
}

#[test]
fn wal_behind_the_end_of_the_stream_is_not_taken() {
    let done = message(b'c', b"");
    let more = wal_message(at(10_000), at(12_000), wal(10_000, 12_000));
    let complete = [message(b'C', b"COPY 0\0"), ready()].concat();
    let meeting = streamed([done.clone(), more.clone(), complete].concat());
    meeting.assert_refused("WAL behind CopyDone", &["terminated before stop point"]);
    assert!(meeting.flushed <= at(10_000), "{:#?}", meeting.exit);
    let endless = meet(source(), &[IMPATIENT], move |session| {
        let start = session.stream()?;
        session.send_wal(start, wal(0, 10_000))?;
        session.send(&done)?;
        session.flood(&more, FLOOD)
    });
    endless.assert_refused("WAL without end behind CopyDone", &[]);
}

#[test]
fn a_next_timeline_that_leads_nowhere_is_refused() {
    let here = Lsn(at(10_000)).to_string();
    let there = Lsn(at(10_001)).to_string();
    let answers: [(&[&str], &str); 11] = [
        (&["1", &here], "unexpected next timeline 1, following timeline 1"),
        (&["0", &here], "unexpected next timeline 0"),
        (&["-1", &here], "could not parse next timeline"),
        (&["4294967296", &here], "could not parse next timeline"),
        (&["two", &here], "could not parse next timeline"),
        (&["2", "FFFFFFFF/FFFFFFFF"], "which no log reaches"),
        (&["2", &there], "next timeline 2 to begin at"),
        (&["2", "nowhere"], "write-ahead log location"),
        (&["2"], "unexpected result set after end-of-timeline"),
        (&["2", "0/0"], "TIMELINE_HISTORY"),
        (&["4294967295", &here], "TIMELINE_HISTORY"),
    ];
    for (row, words) in answers {
        let end = [message(b'c', b""), rows(&[row])].concat();
        streamed_to_its_end(end, Vec::new()).assert_refused(&format!("{row:?}"), &[words]);
    }
}

/// The stream ends so; asked for the next timeline's history, the server answers this.
fn streamed_to_its_end(end: Vec<u8>, history: Vec<u8>) -> Meeting {
    meet(source(), &[], move |session| {
        let start = session.stream()?;
        session.send_wal(start, wal(0, 10_000))?;
        session.send(&end)?;
        loop {
            match session.hear()? {
                (b'Q', command) if command.starts_with(b"TIMELINE_HISTORY") && !history.is_empty() => {
                    session.send(&history)?;
                }
                (b'Q', command) => {
                    let command = String::from_utf8_lossy(&command);
                    let answer = session.usual_answer(command.trim_end_matches('\0'));
                    session.send(&answer)?;
                }
                (b'X', _) => return Ok(()),
                _ => {}
            }
        }
    })
}

#[test]
fn a_history_file_is_stored_under_its_own_name_only() {
    let end = [message(b'c', b""), rows(&[&["2", &Lsn(at(10_000)).to_string()]])].concat();
    let content = "1\t0/302710\tno reason\n";
    let names = [
        "../../etc/x",
        "/etc/x",
        "../00000002.history",
        "./00000002.history",
        "00000002.history/x",
        "00000001.history",
        "00000002.HISTORY",
        "00000002.history\n",
        "000000010000000000000003",
        "",
    ];
    for name in names {
        let meeting = streamed_to_its_end(end.clone(), rows(&[&[name, content]]));
        meeting.assert_refused(
            &format!("{name:?}"),
            &["unexpected history file name for timeline 2"],
        );
        assert_eq!(meeting.names(), ["000000010000000000000003.partial"]);
    }
    for content in ["", "no history", "2\t0/302710\tno reason\n"] {
        let meeting = streamed_to_its_end(end.clone(), rows(&[&["00000002.history", content]]));
        meeting.assert_refused(content, &["server sent an invalid history of timeline 2"]);
        assert_eq!(meeting.names(), ["000000010000000000000003.partial"]);
    }
    let huge = announced(b'D', 1 << 30, b"\0\x02");
    streamed_to_its_end(end, huge).assert_refused("a gigabyte of history", &["lost synchronization"]);
}
