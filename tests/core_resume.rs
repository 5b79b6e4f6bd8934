//! Where within a segment a start goes on: where every byte before it is proven to be there, by code that knows what
//! was written.

mod model;

use std::collections::BTreeMap;
use std::io::Cursor;

use model::segment_size;
use model::wal::{Shape, Unit, Wal};
use walring::core::lsn::{Lsn, Timeline};
use walring::core::resume::{Left, Resumed, Stored, fresh, go_on, next_timeline, preserve_end};
use walring::core::start::{Facts, Position, SegmentFile, StartPlan, plan};
use walring::core::wal::decoder::{Decoder, Expected};
use walring::core::wal::fault::Fault;
use walring::error::{Error, Result};

/// The files of a directory by their names.
struct Directory(BTreeMap<String, Vec<u8>>);

impl Stored for Directory {
    type Reader = Cursor<Vec<u8>>;

    fn open(&self, name: &str) -> Result<Self::Reader> {
        Ok(Cursor::new(self.0[name].clone()))
    }

    fn failed_read(&self, name: &str, error: &std::io::Error) -> Error {
        Error::disk(format!("{name}: {error}"))
    }

    fn damaged(&self, name: &str, fault: &Fault) {
        panic!("{name}: {fault}");
    }
}

impl Directory {
    /// The log as a receiver left it that was killed: complete segments, and a partial.
    fn of(wal: &Wal) -> Directory {
        let size = segment_size();
        let mut files = BTreeMap::new();
        let mut start = wal.start();
        while start < wal.end() {
            let end = (start + size.bytes()).min(wal.end());
            let mut content = wal.bytes(start, end).to_vec();
            content.resize(size.bytes() as usize, 0);
            let name = size.segment_of(Lsn(start)).file_name(Timeline(1), size);
            let is_complete = end - start == size.bytes();
            files.insert(if is_complete { name } else { name + ".partial" }, content);
            start += size.bytes();
        }
        Directory(files)
    }

    /// Where a start goes on, with a server that is far ahead.
    fn goes_on(&self, wal: &Wal) -> u64 {
        self.resumed(wal).decoder.position().0
    }

    fn resumed(&self, wal: &Wal) -> Resumed {
        self.resumed_from(wal, None).1
    }

    /// How a start goes on, perhaps with what a stream before has left, and as it was planned.
    fn resumed_from(&self, wal: &Wal, left: Option<Left>) -> (StartPlan, Resumed) {
        let files: Vec<_> = self.0.iter().map(|(name, content)| file(name, content)).collect();
        let server = Position {
            lsn: Lsn(wal.end() + (1 << 30)),
            timeline: Timeline(1),
        };
        let plan = plan(&Facts {
            files: &files,
            segment_size: segment_size(),
            requested: None,
            slot: None,
            server,
        });
        let resumed = go_on(self, left, &files, &plan, expected(wal)).expect("a place");
        (plan, resumed)
    }
}

fn expected(wal: &Wal) -> Expected {
    Expected {
        segment_size: segment_size(),
        timeline: Timeline(1),
        system_identifier: Some(wal.shape().system_identifier),
    }
}

/// A decoder that has seen the log up to there.
fn decoder_at(wal: &Wal, end: u64) -> Decoder {
    let mut decoder = fresh(expected(wal), Lsn(wal.start()));
    let mut bytes = wal.bytes(wal.start(), end);
    while decoder.next(&mut bytes).expect("a right log").is_some() {}
    decoder
}

fn file(name: &str, content: &[u8]) -> SegmentFile {
    SegmentFile {
        wal_bytes: Some(content.len() as u64),
        ..SegmentFile::from_name(name, segment_size()).expect("a segment's name")
    }
}

/// A record that crosses from the first segment into the second, and commits behind it.
fn crossing() -> Wal {
    crossing_before(20)
}

/// The same, before so many commits.
fn crossing_before(commits: usize) -> Wal {
    let mut wal = Wal::empty(1, Shape::default());
    wal.approach(Unit::Segment, 4096);
    wal.record(30_000);
    for _ in 0..commits {
        wal.commit();
    }
    wal
}

#[test]
fn a_start_goes_on_behind_the_last_record() {
    let wal = crossing();
    let place = Directory::of(&wal).goes_on(&wal);
    assert_eq!(place.next_multiple_of(8), wal.end().next_multiple_of(8));
}

#[test]
fn a_record_that_was_left_half_written_is_received_again() {
    let mut wal = Wal::empty(1, Shape::default());
    wal.commit();
    let (start, _) = {
        wal.die_within(3);
        wal.abandoned()[0]
    };
    for _ in 0..20 {
        wal.commit();
    }
    let resumed = Directory::of(&wal).resumed(&wal);
    let place = resumed.decoder.position().0;
    assert!(
        place <= start,
        "{place:X} lies behind {start:X}, and no CRC covers what is there"
    );
    assert!(place > wal.start());
    let all = wal.end().next_multiple_of(8);
    assert_eq!(
        resumed.end.0.next_multiple_of(8),
        all,
        "the server must have all of it"
    );
    // A stream was cut while it received that again.
    let left = Left {
        timeline: Timeline(1),
        right_to: resumed.end,
        decoder: decoder_at(&wal, wal.records()[0].end),
    };
    let (_, resumed) = Directory::of(&wal).resumed_from(&wal, Some(left));
    assert_eq!(resumed.end.0.next_multiple_of(8), all);
    assert!(resumed.decoder.position().0 <= start);
}

#[test]
fn only_where_its_beginning_is_not_here_a_rest_is_unproven() {
    // Whatever the last pages begin with.
    for commits in [1, 20, 300, 500] {
        a_rest_is_unproven_without_its_beginning(&crossing_before(commits));
    }
}

fn a_rest_is_unproven_without_its_beginning(wal: &Wal) {
    let mut directory = Directory::of(wal);
    assert_eq!(directory.resumed(wal).unproven, None);
    let first = directory.0.pop_first().expect("a segment");
    let start = segment_size()
        .end_of(segment_size().segment_of(Lsn(wal.start())))
        .0;
    let behind = wal.records().iter().find(|record| record.start >= start);
    let resumed = directory.resumed(wal);
    assert_eq!(resumed.unproven, Some(Lsn(behind.expect("a record").start)));
    assert_eq!(
        resumed.decoder.position().0.next_multiple_of(8),
        wal.end().next_multiple_of(8)
    );
    // The beginning of the record alone is enough.
    let (name, content) = first;
    directory.0.insert(name, content);
    assert_eq!(directory.resumed(wal).unproven, None);
}

#[test]
fn a_partial_that_begins_with_a_record_proves_itself() {
    // Later pages begin with the rest of one, or do not.
    for commits in [20, 300, 500] {
        let mut wal = Wal::empty(1, Shape::default());
        wal.commit();
        wal.switch();
        for _ in 0..commits {
            wal.commit();
        }
        let mut directory = Directory::of(&wal);
        directory.0.pop_first().expect("a segment");
        assert_eq!(directory.resumed(&wal).unproven, None, "{commits} commits");
        assert_eq!(
            directory.goes_on(&wal).next_multiple_of(8),
            wal.end().next_multiple_of(8)
        );
    }
}

/// The positions behind each record that begins in the second segment.
fn ends_in_second_segment(wal: &Wal) -> Vec<u64> {
    let start = segment_size()
        .end_of(segment_size().segment_of(Lsn(wal.start())))
        .0;
    let records = wal.records().iter().filter(|record| record.start >= start);
    records.map(|record| record.end.next_multiple_of(8)).collect()
}

#[test]
fn what_a_stream_has_left_is_gone_on_with_only_where_it_belongs() {
    let wal = crossing();
    let directory = Directory::of(&wal);
    let by_files = directory.goes_on(&wal);
    let middle = ends_in_second_segment(&wal)[3];
    let left = |timeline, end| {
        Some(Left {
            timeline: Timeline(timeline),
            right_to: Lsn(end),
            decoder: decoder_at(&wal, end),
        })
    };
    let goes_on = |directory: &Directory, left| directory.resumed_from(&wal, left).1.decoder.position().0;
    assert!(middle < by_files);
    assert_eq!(goes_on(&directory, left(1, middle)), middle);
    assert_eq!(goes_on(&directory, left(2, middle)), by_files);
    let earlier = wal.records()[0].end;
    assert_eq!(goes_on(&directory, left(1, earlier)), by_files);
    // Somebody has taken the partial away.
    let mut without = Directory::of(&wal);
    without.0.pop_last().expect("a partial");
    let start = segment_size().floor(Lsn(middle)).0;
    assert_eq!(goes_on(&without, left(1, middle)), start);
}

#[test]
fn a_stream_that_found_nothing_right_does_not_join_what_was_before() {
    let wal = crossing();
    let end = ends_in_second_segment(&wal)[3];
    let joins = |decoder: Decoder, start: u64| {
        let left = Left {
            timeline: Timeline(1),
            right_to: decoder.position(),
            decoder,
        };
        !left.does_not_join(Lsn(start))
    };
    assert!(joins(decoder_at(&wal, end), end - 8));
    assert!(!joins(decoder_at(&wal, end), end));
    assert!(joins(fresh(expected(&wal), Lsn(wal.start())), wal.start()));
}

#[test]
fn a_little_is_compared_within_the_partial_and_behind_what_is_unproven() {
    let wal = crossing();
    let mut directory = Directory::of(&wal);
    let (plan, resumed) = directory.resumed_from(&wal, None);
    assert_eq!(
        resumed.compared_from(&plan).0,
        resumed.decoder.position().0 - (8 << 10)
    );
    directory.0.pop_first().expect("a segment");
    let (plan, mut resumed) = directory.resumed_from(&wal, None);
    let rest_end = resumed.unproven.expect("a rest");
    assert_eq!(
        resumed.compared_from(&plan),
        rest_end.max(Lsn(resumed.decoder.position().0 - (8 << 10)))
    );
    let nearly_all = Lsn(resumed.decoder.position().0 - 100);
    resumed.unproven = Some(nearly_all);
    assert_eq!(resumed.compared_from(&plan), nearly_all);
    let short = decoder_at(&wal, wal.records()[0].end);
    let resumed = Resumed {
        end: short.position(),
        decoder: short,
        unproven: None,
    };
    let (plan, _) = Directory::of(&wal).resumed_from(&wal, None);
    assert_eq!(resumed.compared_from(&plan), plan.lsn);
}

/// The first segment alone, complete but for its name; with the first and the last record that end in it.
fn called_partial(wal: &Wal) -> (Directory, u64, u64) {
    let mut directory = Directory::of(wal);
    while directory.0.len() > 1 {
        directory.0.pop_last();
    }
    let (name, content) = directory.0.pop_last().expect("a segment");
    directory.0.insert(name + ".partial", content);
    let end = segment_size()
        .end_of(segment_size().segment_of(Lsn(wal.start())))
        .0;
    let whole: Vec<_> = wal.records().iter().filter(|record| record.end <= end).collect();
    (directory, whole[0].start, whole[whole.len() - 1].start)
}

#[test]
fn a_complete_segment_that_is_still_called_partial_is_gone_on_with_at_its_last_record() {
    let mut wal = Wal::empty(1, Shape::default());
    for _ in 0..20 {
        wal.commit();
    }
    wal.approach(Unit::Segment, 4096);
    wal.record(30_000);
    let (directory, first, last) = called_partial(&wal);
    assert!(first < last);
    let resumed = directory.resumed(&wal);
    assert_eq!(resumed.decoder.position().0.next_multiple_of(8), last);
    assert!(resumed.end.0 > last, "the server must have its last record, too");
}

#[test]
fn of_a_complete_segment_with_one_record_the_server_must_have_it_although_it_is_received_again() {
    let wal = crossing();
    let (directory, first, last) = called_partial(&wal);
    assert_eq!(first, last);
    let resumed = directory.resumed(&wal);
    assert_eq!(resumed.decoder.position().0, wal.start());
    assert!(resumed.end.0 > last);
}

#[test]
fn only_later_partials_of_the_timeline_are_kept_whatever_they_hold() {
    let size = segment_size();
    let start = size.start_of(size.segment_of(Lsn(5 << 30)));
    let position = Position {
        lsn: Lsn(start.0 + 100),
        timeline: Timeline(2),
    };
    let named = |segments: u64, timeline: u32, suffix: &str| {
        let segment = size.segment_of(Lsn(start.0 + segments * size.bytes()));
        file(&(segment.file_name(Timeline(timeline), size) + suffix), b"")
    };
    let end = |files: &[SegmentFile]| preserve_end(size, position, Some(Lsn(start.0 + 700)), files);
    assert_eq!(preserve_end(size, position, None, &[]), position.lsn);
    assert_eq!(end(&[]), Lsn(start.0 + 700));
    assert_eq!(
        end(&[named(3, 2, ".partial"), named(1, 2, ".partial")]),
        Lsn(start.0 + 4 * size.bytes())
    );
    for other in [
        named(0, 2, ".partial"),
        named(1, 1, ".partial"),
        named(1, 3, ".partial"),
        named(1, 2, ""),
        named(1, 2, ".gz.partial"),
    ] {
        assert_eq!(end(&[other]), Lsn(start.0 + 700), "{other:?}");
    }
}

#[test]
fn the_next_timeline_is_a_later_one_and_begins_in_what_was_received() {
    let position = Position {
        lsn: Lsn(0x1000),
        timeline: Timeline(2),
    };
    let next = |timeline, switch| next_timeline(position, Timeline(timeline), Lsn(switch), Lsn(0x2000));
    for (timeline, switch) in [(3, 0x2000), (5, 0x1800)] {
        let begins = next(timeline, switch).expect("a timeline");
        assert_eq!((begins.timeline.0, begins.lsn.0), (timeline, switch));
    }
    for (timeline, switch) in [(2, 0x2000), (1, 0x1800), (3, 0x2001)] {
        assert!(next(timeline, switch).is_err(), "{timeline} at {switch:X}");
    }
}
