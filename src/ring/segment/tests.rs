use super::*;
use crate::ring::setup;

fn place(directory: &Path) -> Place {
    Place {
        directory: directory.to_owned(),
        timeline: Timeline(1),
        size: SegmentSize::new(1 << 20).unwrap(),
        mode: 0o600,
        direct: false,
    }
}

fn segments(place: Place, directory: std::fs::File) -> Result<Segments> {
    Segments::new(place, directory, Arc::default())
}

fn open(directory: &Path) -> std::fs::File {
    std::fs::File::open(directory).unwrap()
}

#[test]
fn a_directory_that_came_to_the_name_since_is_not_touched() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("wal");
    std::fs::create_dir(&path).unwrap();
    let directory = open(&path);
    let told = || {
        let again = segments(place(&path), directory.try_clone().unwrap());
        again.map(drop).map_err(|error| error.to_string())
    };
    setup::start().unwrap().block_on(async {
        assert_eq!(told(), Ok(()));
        std::fs::remove_dir(&path).unwrap();
        assert!(told().unwrap_err().contains("was removed, renamed or unmounted"));
        std::fs::create_dir(&path).unwrap();
        let spare = path.join(format!("{PREFIX}1"));
        std::fs::write(&spare, "").unwrap();
        assert!(told().unwrap_err().contains("was replaced"));
        assert!(spare.exists(), "another directory's file was removed");
    });
}

#[test]
fn a_partial_is_missed_when_it_has_its_name_and_a_finished_segment_never() {
    let home = tempfile::tempdir().unwrap();
    let place = place(home.path());
    let size = place.size;
    setup::start().unwrap().block_on(async {
        let mut slots = Slots::register(1, 4096).unwrap();
        let mut segments = segments(place, open(home.path())).unwrap();
        let segment = size.segment_of(Lsn(5 << 20));
        poll_fn(|cx| {
            segments.poll(cx, Duration::ZERO, &mut slots, 0);
            match segments.file(segment, Duration::ZERO).unwrap() {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        })
        .await;
        let check = |segments: &Segments, have_names| segments.check_presence(have_names).is_ok();
        let path = |segments: &Segments| home.path().join(segments.name_of(segment));
        let named = segments.name(segment);
        assert!(check(&segments, false), "its name is on its way");
        named.await.unwrap().unwrap();
        assert!(check(&segments, true));
        std::fs::hard_link(path(&segments), home.path().join("aside")).unwrap();
        std::fs::remove_file(path(&segments)).unwrap();
        assert!(!check(&segments, true));
        std::fs::rename(home.path().join("aside"), path(&segments)).unwrap();
        segments.finish(segment, false).await.unwrap().unwrap();
        std::fs::remove_file(path(&segments)).unwrap();
        assert!(check(&segments, true), "its owner took it away");
    });
}

#[test]
fn a_name_does_not_count_where_the_sync_of_its_file_has_failed() {
    let home = tempfile::tempdir().unwrap();
    let place = place(home.path());
    let (segment, size) = (place.size.segment_of(Lsn(5 << 20)), place.size.bytes());
    setup::start().unwrap().block_on(async {
        let mut slots = Slots::register(1, 4096).unwrap();
        let mut segments = segments(place, open(home.path())).unwrap();
        poll_fn(|cx| {
            while segments.poll(cx, Duration::ZERO, &mut slots, size) {
                // Before it is ready, but with all its zeros, it is being synced.
                let is_syncing = segments.is_preparing() && !segments.is_zeroing();
                if is_syncing && segments.file(segment, Duration::ZERO).unwrap().is_some() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
        let sync = segments.open[0].sync.take().expect("it goes with the file");
        sync.await.unwrap().unwrap();
        let failure = async { Err(io::Error::from_raw_os_error(libc::EIO)) };
        segments.open[0].sync = Some(tokio_uring::spawn(failure));
        let failed = segments.name(segment).await.unwrap().unwrap_err();
        assert_eq!(
            (failed.verb, failed.error.raw_os_error()),
            ("fsync", Some(libc::EIO))
        );
    });
}

#[test]
fn whoever_wants_the_end_does_not_wait_for_the_zeros_of_a_segment() {
    let home = tempfile::tempdir().unwrap();
    let size = SegmentSize::new(ZEROED_AT_START).unwrap();
    let place = Place {
        size,
        ..place(home.path())
    };
    setup::start().unwrap().block_on(async {
        let (stop, mut slots) = (Stop::default(), Slots::register(1, 4096).unwrap());
        let mut segments = segments(place, open(home.path())).unwrap();
        let telemetry = Arc::clone(&segments.telemetry);
        let (wish, disk) = (stop.clone(), Arc::clone(&telemetry));
        tokio_uring::spawn(async move {
            while disk.disk.open() < Some(3) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            wish.request();
        });
        segments.prepare(&mut slots, 0, &stop).await;
        let is_zeroing_still = segments.spare.is_busy() && !segments.spare.is_in_flight();
        assert!(is_zeroing_still, "it was zeroed in full");
        assert!(slots.take_zeros().is_some(), "the zeros are lost");
    });
}

#[test]
fn content_ends_at_the_last_byte_that_is_not_zero() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for (length, last) in [
        (0, None),
        (1 << 20, None),
        (1 << 20, Some(0)),
        (1 << 20, Some((512 << 10) - 1)),
    ] {
        let mut content = vec![0; length];
        if let Some(last) = last {
            content[last] = 1;
        }
        std::fs::write(&path, content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        assert_eq!(
            content_length(&file, 0).unwrap(),
            last.map_or(0, |last| last as u64 + 1)
        );
    }
}
