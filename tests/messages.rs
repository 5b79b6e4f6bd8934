//! What walring says on stderr: the messages of `pg_receivewal -v`, or JSON.
mod common;

use std::process::Command;

use common::process::Exit;
use common::receiver::{pg_receivewal_command, walring_command};
use common::relay::Relay;
use common::wait::until;
use common::{Archive, Lsn, Process, Server, pg_receivewal, program, walring};

#[test]
fn verbose_messages_are_those_of_pg_receivewal() {
    let server = Server::start();
    let (ours, theirs) = (Archive::new(), Archive::new());
    let start = server.write_wal(10).to_string();
    server.write_wal(10);
    for archive in [&ours, &theirs] {
        pg_receivewal(&server, archive, &["-n", "-E", &start])
            .finish()
            .assert_success();
    }
    server.switch_wal();
    server.switch_wal();
    let end = server.write_wal(10).to_string();
    server.write_wal(10);
    let arguments = ["-n", "-v", "--synchronous", "--endpos", &end];
    let ours = Process::spawn(walring_command(&server, &ours, &arguments)).finish();
    let theirs = Process::spawn(pg_receivewal_command(&server, &theirs, &arguments)).finish();
    assert_same_messages(&ours, &theirs);
}

#[test]
fn a_timeline_switch_is_told_as_pg_receivewal_does() {
    let server = Server::start();
    let (ours, theirs) = (Archive::new(), Archive::new());
    let old = server.write_wal(10).to_string();
    server.write_wal(10);
    for archive in [&ours, &theirs] {
        pg_receivewal(&server, archive, &["-n", "-E", &old])
            .finish()
            .assert_success();
    }
    server.restart_as_standby();
    server.promote();
    let end = server.write_wal(10).to_string();
    server.write_wal(10);
    let arguments = ["-n", "-v", "--synchronous", "--endpos", &end];
    let ours = Process::spawn(walring_command(&server, &ours, &arguments)).finish();
    let theirs = Process::spawn(pg_receivewal_command(&server, &theirs, &arguments)).finish();
    assert!(theirs.has_line_with(&["switched to timeline 2"]), "{theirs:#?}");
    assert_same_messages(&ours, &theirs);
}

#[test]
fn slot_actions_are_told_when_verbose() {
    let server = Server::start();
    for (action, message) in [("--create-slot", "creating"), ("--drop-slot", "dropping")] {
        let archive = Archive::new();
        let exit = walring(&server, &archive, &["-v", "--slot=s1", action]).finish();
        let line = format!("{}: {message} replication slot \"s1\"", program::name());
        assert!(exit.stderr.contains(&line), "{exit:#?}");
    }
}

#[test]
fn a_stop_by_signal_is_told_when_verbose() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["-v", "--synchronous"]);
    server.wait_flushed(server.write_wal(10));
    let exit = receiver.stop();
    assert!(
        exit.has_line_with(&["received interrupt signal, exiting"]),
        "{exit:#?}"
    );
    assert!(
        exit.has_line_with(&["not renaming", "segment is not complete"]),
        "{exit:#?}"
    );
}

#[test]
fn json_lines_are_json() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["-v", "--synchronous", "--log-format=json"]);
    server.wait_flushed(server.switch_wal());
    receiver.wait_for_line("finished segment");
    let exit = receiver.stop();
    for line in &exit.stderr {
        let keys = server.sql(&format!(
            "select string_agg(key, ' ') from json_object_keys($json${line}$json$) as key"
        ));
        assert!(keys.contains("level") && keys.contains("timestamp"), "{line}");
    }
}

#[test]
fn json_errors_are_json() {
    let (server, archive) = (Server::start(), Archive::new());
    let exit = walring(&server, &archive, &["-n", "--slot=missing", "--log-format=json"]).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let line = exit.stderr.last().expect("an error");
    assert_eq!(
        server.sql(&format!("select lower($json${line}$json$::json->>'level')")),
        "error"
    );
}

#[test]
fn a_catch_up_shows_its_progress_on_a_terminal() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = far_behind(&server, &archive);
    let Some(screen) = Screen::probe() else {
        return common::skip::skip("the progress line: the program script gives no pseudo terminal here");
    };
    let receiver = screen.show(&through(&relay, &archive));
    screen.wait_for("catching up: ", || {});
    screen.wait_for("/s  ", || relay.allow(64 << 10));
    let text = screen.text();
    let line = text.split('\r').find(|line| line.contains("/s  ")).unwrap();
    assert!(
        line.contains("MiB of ") && line.contains(" %)") && line.contains(" left"),
        "{line:?}"
    );
    relay.allow(1 << 40);
    server.wait_flushed(server.write_wal(10));
    // The line is taken away when the stream is live.
    screen.wait_until_last_line("");
    drop(receiver);
}

#[test]
fn a_catch_up_shows_nothing_where_there_is_no_terminal() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = far_behind(&server, &archive);
    let receiver = Process::spawn(through(&relay, &archive));
    relay.allow(1 << 40);
    server.wait_flushed(server.write_wal(10));
    let exit = receiver.stop();
    let shown = [exit.stderr.join("\n"), exit.stdout].concat();
    assert!(
        !shown.contains("catching up") && !shown.contains('\r'),
        "{shown:?}"
    );
}

/// A server 40 MB ahead of the archive, behind a link over which little has come yet.
fn far_behind(server: &Server, archive: &Archive) -> Relay {
    let start = server.write_wal(10).to_string();
    server.write_wal(10);
    pg_receivewal(server, archive, &["-n", "-E", &start])
        .finish()
        .assert_success();
    server.write_wal(40_000);
    Relay::metered(server.port(), 2 << 20)
}

/// Receives synchronously through the relay.
fn through(relay: &Relay, archive: &Archive) -> Command {
    let mut command = program::receive();
    command.arg("-D").arg(archive.path());
    command.args(["--synchronous", "-h", "127.0.0.1", "-U", "postgres", "-p"]);
    command
        .arg(relay.port().to_string())
        .env("PGAPPNAME", common::server::RECEIVER_NAME);
    command
}

/// A pseudo terminal, and what was written to it.
struct Screen {
    directory: Archive,
}

impl Screen {
    fn probe() -> Option<Screen> {
        let screen = Screen {
            directory: Archive::new(),
        };
        let mut test = Command::new("test");
        test.args(["-t", "2"]);
        let works = screen
            .command(&test)
            .output()
            .is_ok_and(|output| output.status.success());
        works.then_some(screen)
    }

    fn show(&self, command: &Command) -> Process {
        Process::spawn(self.command(command))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.directory.read("screen")).into_owned()
    }

    /// Waits for a text, and does something whenever it is not there yet.
    fn wait_for(&self, text: &str, meanwhile: impl Fn()) {
        until(&format!("{text:?} on the screen"), || {
            meanwhile();
            self.text().contains(text).then_some(())
        });
    }

    /// Waits until this is what the last line shows.
    fn wait_until_last_line(&self, expected: &str) {
        until(&format!("{expected:?} on the last line"), || {
            let text = self.text();
            let last = text.rsplit("\r\x1b[K").next();
            (last == Some(expected)).then_some(())
        });
    }

    /// The command on the screen. `exec`: a signal to the shell is one to the program.
    fn command(&self, command: &Command) -> Command {
        let mut line = String::from("exec");
        for word in std::iter::once(command.get_program()).chain(command.get_args()) {
            line += &format!(" '{}'", word.to_str().expect("a word in text"));
        }
        let mut script = Command::new("script");
        script
            .args(["-q", "-e", "-f", "-c", &line])
            .arg(self.directory.file("screen"));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script
    }
}

/// The same messages, but each once: `pg_receivewal` repeats those about its end. Where in a segment
/// streaming starts and stops is each one's own: walring resumes within it.
#[track_caller]
fn assert_same_messages(ours: &Exit, theirs: &Exit) {
    let said = |exit: &Exit| {
        let mut said: Vec<_> = texts(&exit.stderr).into_iter().map(in_segments).collect();
        said.sort_unstable();
        said
    };
    let mut expected = said(theirs);
    expected.dedup();
    assert_eq!(said(ours), expected, "{:#?}", ours.stderr);
}

/// The text with the position behind "streaming at" replaced by the start of its segment.
fn in_segments(text: &str) -> String {
    let words = text.split(' ').scan(false, |is_position, word| {
        let position = word.parse::<Lsn>().ok().filter(|_| *is_position);
        *is_position = (*is_position && word == "at") || word == "streaming";
        Some(position.map_or(word.to_owned(), |lsn| lsn.segment_start(1 << 20).to_string()))
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What only walring has to say of its work.
const OWN: [&str; 2] = [
    "durable writes use ",
    "again: the segment before is not here to check it",
];

/// The lines without the program's name, and without walring's own.
fn texts(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .filter(|line| !OWN.iter().any(|own| line.contains(own)))
        .map(|line| line.split_once(": ").map_or(line.as_str(), |(_, text)| text))
        .collect()
}
