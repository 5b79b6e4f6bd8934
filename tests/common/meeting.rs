//! A receiver meets a server that means no good, and what became of it.

use std::io;

use rustix::process::{Resource, Rlimit, prlimit};

use super::archive::{Archive, common_prefix, is_segment, is_zero};
use super::process::{Exit, Process};
use super::program;
use super::walsender::{Identity, Session, Walsender};

/// A receiver that wants more memory than this, in bytes, dies of it. It needs about a third.
const MEMORY: u64 = 64 << 20;

/// WAL that a server may send, and what the server says of itself.
#[derive(Clone)]
pub struct Source {
    pub identity: Identity,
    /// Where it begins.
    pub start: u64,
    pub bytes: Vec<u8>,
    pub segment: u64,
}

impl Source {
    /// A server whose log of segments of 1 MB is this, and that says to stand near its beginning.
    pub fn new(system_identifier: u64, start: u64, bytes: &[u8]) -> Source {
        Source {
            identity: Identity {
                system_identifier: system_identifier.to_string(),
                timeline: "1".to_owned(),
                flushed: super::Lsn(start + 1000).to_string(),
                segment_size: "1MB".to_owned(),
            },
            start,
            bytes: bytes.to_vec(),
            segment: 1 << 20,
        }
    }
}

/// How it ended.
pub struct Meeting {
    pub exit: Exit,
    /// The greatest position that the receiver called flushed.
    pub flushed: u64,
    /// Statuses that the server read.
    pub statuses: u64,
    archive: Archive,
    source: Source,
}

/// A receiver with a limit on its memory, on its way to this server.
pub fn receiver(server: &Walsender, archive: &Archive, arguments: &[&str]) -> Process {
    let mut command = program::receive();
    command.arg("-D").arg(archive.path());
    command.args(["-h", "127.0.0.1", "-p", &server.port().to_string()]);
    command.args(["-U", "walring", "-w", "--synchronous", "--receive-timeout=10"]);
    command.args(arguments);
    let process = Process::spawn(command);
    let limit = Rlimit {
        current: Some(MEMORY),
        maximum: Some(MEMORY),
    };
    prlimit(Some(process.pid()), Resource::Data, limit).expect("limit the receiver's memory");
    process
}

/// One connection to a server that plays `script`, to its end.
pub fn meet<S>(source: &Source, arguments: &[&str], script: S) -> Meeting
where
    S: Fn(&mut Session) -> io::Result<()> + Send + Sync + 'static,
{
    let archive = Archive::new();
    let server = Walsender::start(source.identity.clone(), script);
    let exit = receiver(&server, &archive, &[&["-n"], arguments].concat()).finish();
    Meeting {
        exit,
        flushed: server.flushed(),
        statuses: server.statuses(),
        archive,
        source: source.clone(),
    }
}

impl Meeting {
    /// Asserts that the receiver ended with an error, in one line with these words, that it said all it said for the
    /// eye, and that there is no wrong byte.
    #[track_caller]
    pub fn assert_refused(&self, what: &str, words: &[&str]) {
        self.assert_sound(what);
        assert_eq!(self.exit.code, Some(1), "{what}: {:#?}", self.exit);
        let words = [&["error: "], words].concat();
        assert!(self.exit.has_line_with(&words), "{what}: {:#?}", self.exit);
        assert_holds_only(what, &self.archive, &self.source, self.flushed);
    }

    /// Asserts that the receiver ended in good order, and that there is no wrong byte.
    #[track_caller]
    pub fn assert_content(&self, what: &str) {
        self.assert_sound(what);
        assert_eq!(self.exit.code, Some(0), "{what}: {:#?}", self.exit);
        assert_holds_only(what, &self.archive, &self.source, self.flushed);
    }

    /// Asserts what holds of every end: by its own will, with lines for the eye, and nothing wrong claimed.
    #[track_caller]
    pub fn assert_sound(&self, what: &str) {
        let exit = &self.exit;
        assert!(matches!(exit.code, Some(0 | 1)), "{what}: {exit:#?}");
        assert!(!exit.has_line_with(&["panicked"]), "{what}: {exit:#?}");
        for line in &exit.stderr {
            let ours = line.starts_with("walring: ");
            let visible = !line.contains(char::is_control) && line.len() < 64 << 10;
            assert!(ours && visible, "{what}: {line:?}");
        }
        assert_claims_are_true(what, &self.archive, &self.source, self.flushed);
    }

    /// The names of its files.
    pub fn names(&self) -> Vec<String> {
        self.archive.names()
    }
}

/// Asserts that all bytes called flushed are there and right; behind them may be anything.
#[track_caller]
pub fn assert_claims_are_true(what: &str, archive: &Archive, source: &Source, flushed: u64) {
    let end = source.start + source.bytes.len() as u64;
    assert!(flushed <= end, "{what}: {flushed:X} claimed, there was {end:X}");
    let mut at = source.start;
    while at < flushed {
        let (content, _) =
            file_at(archive, source, at).unwrap_or_else(|| panic!("{what}: nothing at {at:X}"));
        let to = flushed.min(at + source.segment);
        let claimed = &source.bytes[(at - source.start) as usize..(to - source.start) as usize];
        let same = common_prefix(&content, claimed);
        assert_eq!(same, claimed.len(), "{what}: wrong bytes were acknowledged");
        at = to;
    }
}

/// Asserts that the files hold the source's bytes and zeros behind them, and no byte else.
#[track_caller]
pub fn assert_holds_only(what: &str, archive: &Archive, source: &Source, flushed: u64) {
    assert_claims_are_true(what, archive, source, flushed);
    let mut known = 0;
    for at in (source.start..source.start + source.bytes.len() as u64).step_by(source.segment as usize) {
        let Some((content, complete)) = file_at(archive, source, at) else {
            continue;
        };
        known += 1;
        let same = common_prefix(&content, &source.bytes[(at - source.start) as usize..]);
        assert!(
            is_zero(&content[same..]),
            "{what}: wrong at {:X}",
            at + same as u64
        );
        assert!(
            !complete || same == content.len(),
            "{what}: the file at {at:X} is not complete"
        );
    }
    let files = archive.names().into_iter();
    let segments = files.filter(|name| is_segment(name.trim_end_matches(".partial")));
    assert_eq!(segments.count(), known, "{what}: {:?}", archive.names());
}

/// The content of the segment that begins there, and whether it is complete.
fn file_at(archive: &Archive, source: &Source, start: u64) -> Option<(Vec<u8>, bool)> {
    let timeline = source.identity.timeline.parse().expect("a timeline");
    let name = super::Lsn(start).segment_name(timeline, source.segment);
    let names = archive.names();
    if names.contains(&name) {
        return Some((archive.read(&name), true));
    }
    let partial = format!("{name}.partial");
    names.contains(&partial).then(|| (archive.read(&partial), false))
}
