//! `walring verify` finds every single flipped bit in a page header or a record.
//!
//! Which place means what is told by a walk of its own over the original, which shares nothing with the decoder.
mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Archive, Installation, Lsn, Server, ServerOptions, at_once};
use walring::edge::verify::{Options, verify};

const PAGE: usize = 8192;
const SEGMENT: usize = 1 << 20;

/// What a byte of the log is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    PageHeader,
    Record,
    /// Between two records.
    Padding,
    /// Behind a switch of segments.
    BehindSwitch,
    /// The rest of a record that begins before the first segment given.
    UnknownRest,
    /// The last record of a partial, if it ends with zeros: it may just not have arrived in whole.
    LastRecord,
    /// The zeros behind the log's end.
    Tail,
}

#[test]
fn every_flipped_bit_is_found() {
    at_once(Installation::with_wal(), |installation| {
        let server = ServerOptions::default().version(&installation).start();
        let line = Line::written_by(&server);
        let flips = Flips::of(&line, 200);
        println!("{}: {:?}", installation.id(), flips.found);
        assert!(
            flips.missed.is_empty(),
            "{}: {:#?}",
            installation.id(),
            flips.missed
        );
    });
}

#[test]
fn every_bit_of_some_headers_is_found_when_flipped() {
    let server = Server::start();
    let line = Line::written_by(&server);
    let copy = Copy::of(&line, 2);
    let start = 2 * SEGMENT;
    // A long header, the first short one, and the first record behind the rest of one.
    let record = line.places[start..]
        .iter()
        .position(|place| *place == Place::Record);
    let record = record.expect("there is a record");
    for byte in (0..40).chain(PAGE..PAGE + 24).chain(record..record + 24) {
        for bit in 0..8 {
            let exempt = line.is_exempt(start + byte, bit);
            assert_eq!(copy.finds_flip(byte, bit), !exempt, "byte {byte} bit {bit}");
        }
    }
}

/// The segments of a server one after another, across a promotion, the last one partial.
struct Line {
    names: Vec<String>,
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Where records lie, in order.
    records: Vec<Range<usize>>,
    history: Vec<u8>,
}

impl Line {
    fn written_by(server: &Server) -> Line {
        load(server);
        server.restart_as_standby();
        server.promote();
        server.write_wal(1500);
        server.sql("create table after_promotion as select i from generate_series(1, 3000) i");
        let end = server.flush_lsn();
        server.stop_immediate();
        let history = server.wal_file("00000002.history");
        let text = String::from_utf8(history.clone()).expect("a history is text");
        let fork: Lsn = text
            .split_whitespace()
            .nth(1)
            .and_then(|lsn| lsn.parse().ok())
            .expect("a switch point");
        let last = end.0 as usize / SEGMENT;
        let first = last.saturating_sub(20).max(1);
        let (mut names, mut bytes) = (Vec::new(), Vec::new());
        for number in first..=last {
            let timeline = if number < fork.0 as usize / SEGMENT { 1 } else { 2 };
            let name = Lsn((number * SEGMENT) as u64).segment_name(timeline, SEGMENT as u64);
            bytes.extend(server.wal_file(&name));
            names.push(name);
        }
        names.last_mut().expect("a segment").push_str(".partial");
        // What a server holds behind its last record can be an earlier use of the file; a receiver has zeros.
        let end = end.0 as usize - first * SEGMENT;
        bytes[end..].fill(0);
        let (places, records) = map(&bytes);
        Line {
            names,
            bytes,
            places,
            records,
            history,
        }
    }

    /// The segments that hold whole what begins or ends in this one.
    fn neighbours(&self, segment: usize) -> Range<usize> {
        let (start, end) = (segment * SEGMENT, (segment + 1) * SEGMENT);
        let before = self.records.iter().rfind(|record| record.start < start);
        let last = self.records.iter().rfind(|record| record.start < end);
        let from = before.map_or(0, |record| record.start / SEGMENT);
        let to = last.map_or(end, |record| record.end).max(end) / SEGMENT + 1;
        from..to.min(self.names.len())
    }

    /// Whether the format gives no way to find that bit flipped.
    fn is_exempt(&self, at: usize, bit: u32) -> bool {
        let in_page = at % PAGE;
        match self.places[at] {
            // XLP_BKP_REMOVABLE means nothing to a reader.
            Place::PageHeader if in_page == 2 && bit == 2 => true,
            // How long a rest of unknown beginning is, up to the alignment.
            Place::PageHeader if at == 16 => bit < 3,
            Place::UnknownRest | Place::LastRecord => true,
            // Within a record's header behind the end, it may be one that has not arrived in whole.
            Place::Tail => at < self.records.last().map_or(0, |last| last.end) + 64,
            _ => false,
        }
    }
}

/// Several kinds of records, of all lengths, and a switch.
fn load(server: &Server) {
    server.pgbench_init();
    server
        .start_pgbench(&["-n", "-c", "4", "-t", "300"])
        .finish()
        .assert_success();
    server.switch_wal();
    server.sql("select pg_logical_emit_message(true, 'long', repeat('x', 2500000))");
    server.sql("create table bulk as select i, md5(i::text) from generate_series(1, 20000) i");
    server.sql("create index on bulk (md5)");
    server.sql("begin; savepoint a; delete from bulk where i < 100; savepoint b; update bulk set i = -i where i < 900; commit");
}

/// What each byte is, by walking from record to record; and where the records are.
fn map(bytes: &[u8]) -> (Vec<Place>, Vec<Range<usize>>) {
    let mut places = vec![Place::Tail; bytes.len()];
    for page in (0..bytes.len()).step_by(PAGE) {
        if bytes[page..page + 2] != [0, 0] {
            places[page..page + header(page)].fill(Place::PageHeader);
        }
    }
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = mark(&mut places, header(0), number(16), Place::UnknownRest).end;
    let mut records = Vec::new();
    loop {
        let padded = at.next_multiple_of(8);
        places[at..padded].fill(Place::Padding);
        at = if padded.is_multiple_of(PAGE) {
            padded + header(padded)
        } else {
            padded
        };
        if at >= bytes.len() || number(at) == 0 {
            break;
        }
        let start = at;
        let record = mark(&mut places, start, number(start), Place::Record);
        at = record.end;
        records.push(record);
        let mut heading = (start..).filter(|byte| places[*byte] != Place::PageHeader);
        let info = heading.nth(16).expect("a header");
        let manager = heading.next().expect("a header");
        if bytes[manager] == 0 && bytes[info] & 0xF0 == 0x40 && !at.is_multiple_of(SEGMENT) {
            let end = at.next_multiple_of(SEGMENT);
            places[at..end].fill(Place::BehindSwitch);
            at = end;
        }
    }
    let last = records.last().expect("there are records").clone();
    if bytes[last.end - 8..last.end] == [0; 8] {
        places[last].fill(Place::LastRecord);
    }
    (places, records)
}

/// Marks so many bytes of a record, page headers passed over; gives where they lie.
fn mark(places: &mut [Place], start: usize, length: usize, place: Place) -> Range<usize> {
    let (mut at, mut left) = (start, length);
    while left > 0 {
        if at % PAGE == 0 {
            at += header(at);
        }
        places[at] = place;
        (at, left) = (at + 1, left - 1);
    }
    start..at
}

fn header(page: usize) -> usize {
    if page.is_multiple_of(SEGMENT) { 40 } else { 24 }
}

/// What became of many flips, by place.
struct Flips {
    /// How many there were, and how many of them were found.
    found: BTreeMap<Place, (usize, usize)>,
    missed: Vec<String>,
}

impl Flips {
    /// So many flips in each of the places.
    fn of(line: &Line, count: usize) -> Flips {
        let seed = std::env::var("FLIP_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(7);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut flips = Flips {
            found: BTreeMap::new(),
            missed: Vec::new(),
        };
        let mut by_segment: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
        for kind in [
            Place::PageHeader,
            Place::Record,
            Place::Padding,
            Place::BehindSwitch,
            Place::Tail,
        ] {
            let all: Vec<_> = (0..line.bytes.len())
                .filter(|&at| line.places[at] == kind)
                .collect();
            assert!(!all.is_empty(), "the load has no {kind:?}");
            // Rare places are tried less often.
            for _ in 0..count.min(all.len() / 4 + 8) {
                let at = all[random.usize(..all.len())];
                by_segment
                    .entry(at / SEGMENT)
                    .or_default()
                    .push((at, random.u32(..8)));
            }
        }
        for (segment, chosen) in by_segment {
            let copy = Copy::of(line, segment);
            for (at, bit) in chosen {
                flips.try_one(line, &copy, at, bit);
            }
        }
        flips
    }

    fn try_one(&mut self, line: &Line, copy: &Copy, at: usize, bit: u32) {
        let found = copy.finds_flip(at % SEGMENT, bit);
        let place = line.places[at];
        let (tried, hits) = self.found.entry(place).or_default();
        (*tried, *hits) = (*tried + 1, *hits + usize::from(found));
        if !found && !line.is_exempt(at, bit) {
            let (name, at) = (&line.names[at / SEGMENT], at % SEGMENT);
            self.missed
                .push(format!("{name} offset {at} bit {bit}: {place:?}"));
        }
    }
}

/// A segment in a directory, with all others that its records reach.
struct Copy {
    archive: Archive,
    file: std::fs::File,
}

impl Copy {
    fn of(line: &Line, segment: usize) -> Copy {
        let archive = Archive::below(Path::new("/dev/shm"));
        archive.write("00000002.history", &line.history);
        for number in line.neighbours(segment) {
            let bytes = &line.bytes[number * SEGMENT..][..SEGMENT];
            archive.write(&line.names[number], bytes);
        }
        let path = archive.file(&line.names[segment]);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("open a segment");
        let copy = Copy { archive, file };
        assert_eq!(copy.findings(), Vec::<String>::new(), "nothing is flipped yet");
        copy
    }

    /// Whether the flip of one bit is found; it is flipped back.
    fn finds_flip(&self, at: usize, bit: u32) -> bool {
        self.flip(at, bit);
        let findings = self.findings();
        self.flip(at, bit);
        assert!(findings.len() < 8, "one flip at {at}, and findings {findings:#?}");
        !findings.is_empty()
    }

    fn flip(&self, at: usize, bit: u32) {
        let mut byte = [0];
        self.file
            .read_exact_at(&mut byte, at as u64)
            .expect("read a byte");
        byte[0] ^= 1 << bit;
        self.file.write_all_at(&byte, at as u64).expect("write a byte");
    }

    fn findings(&self) -> Vec<String> {
        let options = Options {
            paths: vec![self.archive.path().to_owned()],
            jobs: Some(1),
            ..Options::default()
        };
        let verdict = verify(&options).expect("the segments can be looked at");
        verdict.findings.iter().map(ToString::to_string).collect()
    }
}
