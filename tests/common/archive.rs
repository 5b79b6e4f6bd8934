//! The directory a receiver writes to, and what must hold for its files.

use std::path::{Path, PathBuf};

use super::lsn::Lsn;
use super::server::Server;

/// The unit in which files are compared.
const BLOCK: usize = 4096;

/// A receiver's target directory, on a real disk; removed when it goes out of scope.
pub struct Archive {
    directory: tempfile::TempDir,
}

impl Default for Archive {
    fn default() -> Archive {
        Archive::new()
    }
}

impl Archive {
    /// An empty directory.
    pub fn new() -> Archive {
        Archive::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// An empty directory in another.
    pub fn below(parent: &Path) -> Archive {
        let directory = tempfile::tempdir_in(parent).expect("create an archive");
        Archive { directory }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The content of a file in it.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name))
            .unwrap_or_else(|e| panic!("read {name}: {e}; there are {:?}", self.names()))
    }

    /// Puts a file into it.
    pub fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.file(name), content).expect("write into the archive");
    }

    /// Every file but hidden ones, with its content.
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let names = self.names().into_iter();
        names.map(|name| (name.clone(), self.read(&name))).collect()
    }

    /// Every name in it but hidden ones, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("list the archive");
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().expect("a name in text"));
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// The finished segments, in order.
    pub fn segments(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| is_segment(name)).collect()
    }

    /// The unfinished segments, in order.
    pub fn partials(&self) -> Vec<String> {
        let unfinished = |name: &String| name.strip_suffix(".partial").is_some_and(is_segment);
        self.names().into_iter().filter(unfinished).collect()
    }

    /// Asserts that it holds the server's WAL without a gap from its first segment on `timeline` up to `end`, and
    /// nothing but zeros behind what it received.
    #[track_caller]
    pub fn assert_holds(&self, server: &Server, timeline: u32, end: Lsn) {
        let segment_bytes = server.segment_bytes();
        let on_timeline = format!("{timeline:08X}");
        let expected_last = Lsn(end.0 - 1).segment_name(timeline, segment_bytes);
        let mut found: Vec<String> = self
            .segments()
            .into_iter()
            .filter(|n| n.starts_with(&on_timeline))
            .collect();
        for name in &found {
            assert_same(name, &self.read(name), &server.wal_file(name));
        }
        if found.last().is_none_or(|last| *last < expected_last) {
            self.assert_partial_holds(server, timeline, end);
            found.push(expected_last);
        }
        assert_without_gap(&found, segment_bytes);
    }

    /// Asserts that the partial segment holds the server's bytes up to `end`, and zeros behind what it received.
    #[track_caller]
    pub fn assert_partial_holds(&self, server: &Server, timeline: u32, end: Lsn) {
        let segment_bytes = server.segment_bytes();
        let name = Lsn(end.0 - 1).segment_name(timeline, segment_bytes);
        let ours = self.read(&format!("{name}.partial"));
        let theirs = server.wal_file(&name);
        assert_eq!(ours.len(), theirs.len(), "size of {name}.partial");
        let same = common_prefix(&ours, &theirs);
        let needed = Lsn(end.0 - 1).offset(segment_bytes) + 1;
        assert!(
            same >= needed,
            "{name}.partial differs at {same}, before {end} at {needed}"
        );
        assert!(is_zero(&ours[same..]), "{name}.partial is not zero behind {same}");
    }

    /// Asserts that the partial segment holds the server's bytes up to `end`; behind it may be anything.
    #[track_caller]
    pub fn assert_partial_starts_as(&self, server: &Server, timeline: u32, end: Lsn) {
        let name = Lsn(end.0 - 1).segment_name(timeline, server.segment_bytes());
        let (ours, theirs) = (self.read(&format!("{name}.partial")), server.wal_file(&name));
        let (same, needed) = (
            common_prefix(&ours, &theirs),
            Lsn(end.0 - 1).offset(server.segment_bytes()) + 1,
        );
        assert!(same >= needed, "{name}.partial differs at {same}, before {end}");
    }

    /// Asserts what holds at any instant, whatever was killed: the finished segments from the one named `since` on are
    /// the server's; directly behind them is at most one partial, whose bytes are the server's or still zero; and
    /// everything up to `end` is there, if anything has to be. Gives the newest finished segment.
    #[track_caller]
    pub fn assert_sound(&self, server: &Server, since: &str, end: Option<Lsn>) -> Option<String> {
        let (names, segments, partials) = (self.names(), self.segments(), self.partials());
        let expected = segments.len() + partials.len();
        assert_eq!(names.len(), expected, "strange files: {names:?}");
        assert!(partials.len() <= 1, "more than one partial: {names:?}");
        let unfinished = partials
            .first()
            .map(|name| name.trim_end_matches(".partial").to_owned());
        let chain: Vec<String> = segments.iter().cloned().chain(unfinished.clone()).collect();
        assert_without_gap(&chain, server.segment_bytes());
        for name in segments.iter().filter(|name| name.as_str() >= since) {
            assert_same(name, &self.read(name), &server.wal_file(name));
        }
        let same = unfinished.map(|name| self.assert_partial_is_no_other(server, &name));
        if let Some(end) = end {
            let last = Lsn(end.0 - 1);
            let name = last.segment_name(1, server.segment_bytes());
            let is_finished = segments.last().is_some_and(|newest| *newest >= name);
            let is_partial = chain.last() == Some(&name);
            let needed = last.offset(server.segment_bytes()) + 1;
            assert!(
                is_finished || is_partial && same >= Some(needed),
                "not everything up to {end} is there: {names:?}, the last is right up to {same:?}"
            );
        }
        segments.last().cloned()
    }

    /// Asserts that each byte of the partial segment is the server's or still zero; gives the length up to which all
    /// are the server's. Which may not have begun the segment, after a switch.
    #[track_caller]
    pub fn assert_partial_is_no_other(&self, server: &Server, name: &str) -> usize {
        let ours = self.read(&format!("{name}.partial"));
        let theirs = std::fs::read(server.data().join("pg_wal").join(name)).unwrap_or(vec![0; ours.len()]);
        assert_eq!(ours.len(), theirs.len(), "size of {name}.partial");
        for (number, (our, their)) in ours.chunks(BLOCK).zip(theirs.chunks(BLOCK)).enumerate() {
            let is_other = |at: &usize| our[*at] != 0 && our[*at] != their[*at];
            let other = (our != their && !is_zero(our)).then(|| (0..our.len()).find(is_other));
            assert!(
                other.flatten().is_none(),
                "{name}.partial: block {number} holds what the server never had"
            );
        }
        common_prefix(&ours, &theirs)
    }

    /// Asserts that every finished segment is read by `pg_waldump` from its first record to its last.
    #[track_caller]
    pub fn assert_readable(&self, server: &Server) {
        for name in self.segments() {
            let mut dump = server.installation().command("pg_waldump");
            let output = dump
                .arg("--quiet")
                .arg(self.file(&name))
                .output()
                .expect("run pg_waldump");
            assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// Whether the name is that of a finished segment.
pub fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// How many bytes at the beginning are the same; compared in blocks, since debug builds count bytes slowly.
pub fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let same_blocks = a
        .chunks_exact(BLOCK)
        .zip(b.chunks_exact(BLOCK))
        .take_while(|(a, b)| a == b)
        .count();
    let start = same_blocks * BLOCK;
    start
        + a[start..]
            .iter()
            .zip(&b[start..])
            .take_while(|(a, b)| a == b)
            .count()
}

/// Whether there is nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(BLOCK)
        .all(|block| block == &[0; BLOCK][..block.len()])
}

/// Asserts that two files are equal, without printing megabytes when they are not.
#[track_caller]
pub fn assert_same(name: &str, ours: &[u8], theirs: &[u8]) {
    assert_eq!(ours.len(), theirs.len(), "size of {name}");
    assert!(
        ours == theirs,
        "{name} differs at {}",
        common_prefix(ours, theirs)
    );
}

#[track_caller]
pub fn assert_without_gap(names: &[String], segment_bytes: u64) {
    let per_id = (1u64 << 32) / segment_bytes;
    let number = |name: &String| {
        let part = |range| u64::from_str_radix(&name[range], 16).expect("hexadecimal digits");
        part(8..16) * per_id + part(16..24)
    };
    for pair in names.windows(2) {
        assert_eq!(
            number(&pair[0]) + 1,
            number(&pair[1]),
            "a gap behind {} in {names:?}",
            pair[0]
        );
    }
}
