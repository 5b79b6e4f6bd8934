use super::*;

const SIZE: u64 = 1 << 20;
const SERVER: Position = Position {
    lsn: Lsn(50 * SIZE + 77),
    timeline: Timeline(9),
};

fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

fn file(segment: u64, timeline: u32, suffix: &str, wal_bytes: Option<u64>) -> SegmentFile {
    let name = SegmentNumber(segment).file_name(Timeline(timeline), size()) + suffix;
    SegmentFile {
        wal_bytes,
        ..SegmentFile::from_name(&name, size()).unwrap()
    }
}

fn complete(segment: u64, timeline: u32) -> SegmentFile {
    file(segment, timeline, "", Some(SIZE))
}

fn damaged(segment: u64, timeline: u32) -> SegmentFile {
    file(segment, timeline, "", Some(77))
}

fn partial(segment: u64, timeline: u32) -> SegmentFile {
    file(segment, timeline, ".partial", Some(SIZE))
}

fn facts(files: &[SegmentFile]) -> Facts<'_> {
    Facts {
        files,
        segment_size: size(),
        requested: None,
        slot: None,
        server: SERVER,
    }
}

fn decision(files: &[SegmentFile]) -> (Case, u64, u32) {
    let plan = plan(&facts(files));
    assert_eq!(plan.lsn.0 % SIZE, 0);
    (plan.case, plan.lsn.0 / SIZE, plan.timeline.0)
}

#[test]
fn every_combination_of_conditions_meets_exactly_one_row() {
    let both = [false, true];
    for newest in [None, Some(Stage::Partial), Some(Stage::Complete)] {
        for (damage_in_the_way, requested, slot) in both
            .iter()
            .flat_map(|&d| both.iter().flat_map(move |&r| both.map(move |s| (d, r, s))))
        {
            let conditions = Conditions {
                newest,
                damage_in_the_way,
                requested,
                slot,
            };
            let rows = TABLE.iter().filter(|row| row.matches(conditions)).count();
            assert_eq!(rows, 1, "{conditions:?}");
        }
    }
}

/// pg_receivewal's own loop over the directory, damaged files skipped.
fn as_pg_receivewal(files: &[SegmentFile]) -> Option<(u64, u32)> {
    let mut high: Option<(u64, u32, bool)> = None;
    for file in files.iter().filter(|file| !file.is_damaged(size())) {
        let this = (file.segment.0, file.timeline.0, file.stage == Stage::Complete);
        let better = match high {
            None => true,
            Some((segment, timeline, was_complete)) => {
                this.0 > segment
                    || this.0 == segment && this.1 > timeline
                    || (this.0, this.1) == (segment, timeline) && this.2 && !was_complete
            }
        };
        high = if better { Some(this) } else { high };
    }
    high.map(|(segment, timeline, complete)| (segment + u64::from(complete), timeline))
}

#[test]
fn every_directory_starts_as_with_pg_receivewal_but_never_past_a_damaged_segment() {
    let mut possible = Vec::new();
    for (segment, timeline) in [(3, 1), (3, 2), (4, 1), (4, 2)] {
        possible.extend([complete(segment, timeline), partial(segment, timeline)]);
        possible.push(file(segment, timeline, ".gz", Some(77)));
    }
    for chosen in 0u32..1 << possible.len() {
        let taken = possible
            .iter()
            .enumerate()
            .filter(|(bit, _)| chosen & 1 << bit != 0);
        let files: Vec<_> = taken.map(|(_, file)| *file).collect();
        let plan = plan(&facts(&files));
        let server = (SERVER.lsn.0 / SIZE, SERVER.timeline.0);
        let expected = as_pg_receivewal(&files).unwrap_or(server);
        let good = files
            .iter()
            .filter(|f| f.stage == Stage::Complete && !f.is_damaged(size()));
        let newest_complete = good.map(|f| f.rank()).max();
        let start = (plan.lsn.0 / SIZE, plan.timeline.0);
        for bad in files.iter().filter(|f| f.is_damaged(size())) {
            let above = newest_complete.is_none_or(|newest| bad.rank() > newest);
            assert!(!above || start.0 <= bad.segment.0, "{files:?} {plan:?}");
        }
        assert!(
            start == expected || plan.case == Case::RefetchDamaged,
            "{files:?} {plan:?}"
        );
        assert!(
            start.0 < expected.0 || plan.case != Case::RefetchDamaged,
            "{files:?} {plan:?}"
        );
    }
}

#[test]
fn the_highest_segment_then_timeline_then_the_complete_file_decides() {
    assert_eq!(
        decision(&[complete(5, 1), complete(4, 2)]),
        (Case::AfterComplete, 6, 1)
    );
    assert_eq!(
        decision(&[partial(5, 2), complete(5, 1)]),
        (Case::AtPartial, 5, 2)
    );
    assert_eq!(
        decision(&[complete(5, 1), partial(5, 1)]),
        (Case::AfterComplete, 6, 1)
    );
    assert_eq!(
        decision(&[complete(5, 1), partial(6, 1)]),
        (Case::AtPartial, 6, 1)
    );
    assert_eq!(
        decision(&[complete(255, 1), complete(256, 1)]),
        (Case::AfterComplete, 257, 1)
    );
}

#[test]
fn an_empty_directory_starts_where_asked_then_at_the_slot_then_at_the_server() {
    let slot = Position {
        lsn: Lsn(40 * SIZE + 5),
        timeline: Timeline(8),
    };
    let everything = Facts {
        requested: Some(Lsn(30 * SIZE + 1)),
        slot: Some(slot),
        ..facts(&[])
    };
    let start = |facts: &Facts| {
        let plan = plan(facts);
        (plan.case, plan.lsn.0, plan.timeline.0)
    };
    assert_eq!(start(&everything), (Case::Requested, 30 * SIZE, 9));
    let no_request = Facts {
        requested: None,
        ..everything
    };
    assert_eq!(start(&no_request), (Case::AtSlot, 40 * SIZE, 8));
    assert_eq!(start(&facts(&[])), (Case::AtServer, 50 * SIZE, 9));
    let files = [complete(5, 1)];
    let with_segment = Facts {
        files: &files,
        ..everything
    };
    assert_eq!(start(&with_segment), (Case::AfterComplete, 6 * SIZE, 1));
}

#[test]
fn streaming_starts_again_at_a_damaged_segment_that_no_good_one_covers() {
    assert_eq!(decision(&[damaged(5, 2)]), (Case::RefetchDamaged, 5, 2));
    assert_eq!(
        decision(&[damaged(6, 1), damaged(5, 1)]),
        (Case::RefetchDamaged, 5, 1)
    );
    assert_eq!(
        decision(&[complete(4, 1), damaged(5, 1), partial(6, 1)]),
        (Case::RefetchDamaged, 5, 1)
    );
    assert_eq!(
        decision(&[complete(5, 1), damaged(5, 2)]),
        (Case::RefetchDamaged, 5, 2)
    );
    // Here pg_receivewal's rule already starts at or below the damage.
    assert_eq!(
        decision(&[complete(4, 1), damaged(5, 1)]),
        (Case::AfterComplete, 5, 1)
    );
    assert_eq!(decision(&[partial(5, 1), damaged(5, 1)]), (Case::AtPartial, 5, 1));
    assert_eq!(
        decision(&[damaged(5, 1), complete(6, 1)]),
        (Case::AfterComplete, 7, 1)
    );
    let slot = Some(Position {
        lsn: Lsn(4 * SIZE),
        timeline: Timeline(1),
    });
    assert_eq!(
        plan(&Facts {
            slot,
            ..facts(&[damaged(5, 1)])
        })
        .case,
        Case::AtSlot
    );
}

#[test]
fn damaged_files_are_warned_about_in_the_words_of_pg_receivewal() {
    let files = [
        complete(4, 1),
        file(6, 1, ".gz", Some(78)),
        damaged(5, 1),
        partial(7, 1),
    ];
    let lines: Vec<_> = plan(&facts(&files))
        .warnings
        .iter()
        .map(Warning::to_string)
        .collect();
    assert_eq!(
        lines,
        [
            "segment file \"000000010000000000000005\" has incorrect size 77, skipping",
            "compressed segment file \"000000010000000000000006.gz\" has incorrect uncompressed size 78, skipping",
            "streaming starts at the segment of damaged file \"000000010000000000000005\", to receive it again",
        ]
    );
}

#[test]
fn a_partial_of_odd_size_is_a_place_to_start_and_only_a_longer_one_is_set_aside() {
    for bytes in [0, 1, SIZE - 1, SIZE] {
        let plan = plan(&facts(&[file(5, 1, ".partial", Some(bytes))]));
        assert_eq!((plan.case, plan.lsn.0), (Case::AtPartial, 5 * SIZE));
        assert!(plan.set_aside.is_empty() && plan.warnings.is_empty());
    }
    let long = |segment| file(segment, 1, ".partial", Some(SIZE + 1));
    let elsewhere = plan(&facts(&[long(5), long(3), partial(5, 2)]));
    assert!(elsewhere.set_aside.is_empty() && elsewhere.warnings.is_empty());
    let plan = plan(&facts(&[long(5), long(3)]));
    assert_eq!((plan.case, plan.lsn.0), (Case::AtPartial, 5 * SIZE));
    assert_eq!(plan.set_aside, ["000000010000000000000005.partial"]);
    assert_eq!(
        plan.warnings[0].to_string(),
        "partial segment file \"000000010000000000000005.partial\" has 1048577 bytes, \
         which is more than a segment, setting it aside"
    );
}

#[test]
fn compressed_partials_and_lz4_files_are_judged_by_their_names() {
    assert_eq!(decision(&[file(5, 1, ".lz4", None)]), (Case::AfterComplete, 6, 1));
    assert_eq!(
        decision(&[file(5, 1, ".gz.partial", None)]),
        (Case::AtPartial, 5, 1)
    );
    assert_eq!(
        decision(&[file(5, 1, ".lz4.partial", None)]),
        (Case::AtPartial, 5, 1)
    );
}

#[test]
fn segment_zero_and_a_segment_at_the_end_of_all_positions_count_for_nothing() {
    let last = SegmentFile::from_name("00000001FFFFFFFF00000FFF", size()).unwrap();
    let last = SegmentFile {
        wal_bytes: Some(SIZE),
        ..last
    };
    assert_eq!(decision(&[complete(0, 1), partial(0, 1), last]).0, Case::AtServer);
}

#[test]
fn only_the_names_that_pg_receivewal_writes_are_segments() {
    let stem = "0000000100000000000000AB";
    for (suffix, ..) in SUFFIXES {
        let name = format!("{stem}{suffix}");
        let file = SegmentFile::from_name(&name, size()).unwrap();
        assert_eq!(
            (file.segment.0, file.timeline.0, file.name(size())),
            (0xAB, 1, name)
        );
    }
    for bad in [
        ".zst",
        ".partial.gz",
        ".GZ",
        ".gz.tmp",
        ".partial.oversize",
        "0",
        ".",
    ] {
        assert_eq!(
            SegmentFile::from_name(&format!("{stem}{bad}"), size()),
            None,
            "{bad}"
        );
    }
    for bad in ["", "00000002.history", "0000000100000000000000ab", "€€€€€€€€€"] {
        assert_eq!(SegmentFile::from_name(bad, size()), None, "{bad}");
    }
}
