use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const SERVER: u64 = 7_300_000_000_000_000_001;
const SEGMENT: &str = "000000010000000000000005";

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn fresh() -> (TempDir, Directory) {
    let temporary = tempfile::tempdir().unwrap();
    let directory = Directory::open(temporary.path()).unwrap();
    (temporary, directory)
}

fn first_page(system_identifier: u64, segment_bytes: u32) -> Vec<u8> {
    let mut page = vec![0; 8192];
    page[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    page[2..4].copy_from_slice(&2u16.to_le_bytes());
    page[24..32].copy_from_slice(&system_identifier.to_le_bytes());
    page[32..36].copy_from_slice(&segment_bytes.to_le_bytes());
    page[36..40].copy_from_slice(&8192u32.to_le_bytes());
    page
}

fn check(directory: &Directory) -> Result<()> {
    let files = directory.scan(size())?;
    directory.check_system_identifier(&files, SERVER, size())
}

#[test]
fn a_directory_that_cannot_be_opened_is_named_with_the_reason() {
    let message = |path: &Path| Directory::open(path).unwrap_err().to_string();
    let (temporary, _directory) = fresh();
    assert_eq!(
        message(Path::new("/nowhere")),
        "could not open directory \"/nowhere\": No such file or directory"
    );
    let file = temporary.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        message(&file),
        format!("could not open directory \"{}\": Not a directory", file.display())
    );
}

#[test]
fn a_second_receiver_is_refused_until_the_first_is_gone() {
    let (temporary, directory) = fresh();
    let error = Directory::open(temporary.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "directory \"{}\" is in use by another walring",
            temporary.path().display()
        )
    );
    assert_eq!(
        error.hint(),
        Some("Stop the other one, or receive into another directory.")
    );
    assert!(!error.is_retryable());
    drop(directory);
    assert!(Directory::open(temporary.path()).is_ok());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn the_scan_measures_segments_and_skips_everything_else() {
    let (temporary, directory) = fresh();
    let write = |name: &str, content: &[u8]| fs::write(temporary.path().join(name), content).unwrap();
    write(&format!("{SEGMENT}.partial"), b"123");
    write(SEGMENT, b"12345");
    write("000000010000000000000004.lz4", b"x");
    write("000000010000000000000003.gz", b"x");
    write("000000010000000000000002.gz.partial", b"x");
    write("00000002.history", b"x");
    write(".walring-spare", b"x");
    fs::create_dir(temporary.path().join("000000010000000000000006")).unwrap();
    let gone = temporary.path().join("000000010000000000000007");
    std::os::unix::fs::symlink("/nowhere", gone).unwrap();
    let found: Vec<_> = (directory.scan(size()).unwrap().iter())
        .map(|file| (file.name(size()), file.wal_bytes))
        .collect();
    let expected = [
        ("000000010000000000000002.gz.partial", None),
        ("000000010000000000000003.gz", Some(0)),
        ("000000010000000000000004.lz4", None),
        ("000000010000000000000005.partial", Some(3)),
        ("000000010000000000000005", Some(5)),
    ];
    assert_eq!(found, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
}

#[test]
fn the_size_in_a_gzip_trailer_is_unsigned() {
    let (temporary, directory) = fresh();
    for bytes in [8u32 << 20, 128 << 20, 1 << 31] {
        let content = [b"compressed", &bytes.to_le_bytes()[..]].concat();
        fs::write(temporary.path().join(format!("{SEGMENT}.gz")), content).unwrap();
        let files = directory.scan(size()).unwrap();
        assert_eq!(files[0].wal_bytes, Some(u64::from(bytes)));
    }
}

#[test]
fn segments_of_another_server_or_segment_size_are_refused_and_left_alone() {
    let (temporary, directory) = fresh();
    let path = temporary.path().join(SEGMENT);
    let refusal = |page: Vec<u8>| {
        fs::write(&path, &page).unwrap();
        let error = check(&directory).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "segment file \"{}\" does not belong to this server",
                path.display()
            )
        );
        assert!(!error.is_retryable() && fs::read(&path).unwrap() == page);
        error.detail().unwrap().to_owned()
    };
    assert_eq!(
        refusal(first_page(77, 1 << 20)),
        "its system identifier is 77, the server's is 7300000000000000001"
    );
    assert_eq!(
        refusal(first_page(SERVER, 1 << 24)),
        "its segment size is 16777216 bytes, the server's is 1048576"
    );
    assert_eq!(
        refusal(vec![b'x'; 100]).as_str(),
        "its first page has no WAL page header"
    );
}

#[test]
fn the_newest_segment_with_a_page_tells_whose_wal_it_is() {
    let (temporary, directory) = fresh();
    let write = |name: &str, page: &[u8]| fs::write(temporary.path().join(name), page).unwrap();
    assert!(check(&directory).is_ok());
    write("000000010000000000000003", &first_page(77, 1 << 20));
    write("000000010000000000000004", &first_page(SERVER, 1 << 20));
    write("000000010000000000000005.partial", &[0; 8192]);
    write("000000010000000000000006.partial", &[]);
    write("000000010000000000000007.gz.partial", &first_page(77, 1 << 20));
    assert!(check(&directory).is_ok());
    // A connection may be lost within the header.
    for length in [1, 12, 27, 36, 37] {
        let mut page = first_page(SERVER, 1 << 20);
        page[length..].fill(0);
        write("000000010000000000000005.partial", &page);
        assert!(check(&directory).is_ok(), "{length} bytes");
    }
    write("000000010000000000000005.partial", &first_page(77, 1 << 20));
    assert!(check(&directory).is_err());
}

#[test]
fn a_file_set_aside_keeps_its_bytes_and_never_replaces_another() {
    let (temporary, directory) = fresh();
    let name = format!("{SEGMENT}.partial");
    for (content, aside) in [("a", "oversize"), ("b", "oversize.2"), ("c", "oversize.3")] {
        fs::write(temporary.path().join(&name), content).unwrap();
        assert_eq!(
            directory.set_aside(&name, "oversize").unwrap(),
            format!("{name}.{aside}")
        );
        let kept = temporary.path().join(format!("{name}.{aside}"));
        assert_eq!(fs::read_to_string(kept).unwrap(), content);
    }
    assert!(directory.scan(size()).unwrap().is_empty());
    assert!(
        directory
            .set_aside(&name, "oversize")
            .unwrap_err()
            .to_string()
            .ends_with("No such file or directory")
    );
}

#[test]
fn the_group_reads_new_files_only_where_it_may_read_the_servers() {
    let (temporary, mut directory) = fresh();
    let mode = |name: &str| {
        fs::metadata(temporary.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    directory.create("private").unwrap();
    assert_eq!(
        (mode("private"), directory.file_mode().as_raw_mode()),
        (0o600, 0o600)
    );
    let before = rustix::process::umask(Mode::from_raw_mode(0o077));
    directory.allow_group_access();
    directory.create("shared").unwrap();
    rustix::process::umask(before);
    assert_eq!(
        (mode("shared"), directory.file_mode().as_raw_mode()),
        (0o640, 0o640)
    );
}

#[test]
fn the_alignment_for_direct_io_is_a_power_of_two_and_the_probe_leaves_nothing() {
    let (temporary, directory) = fresh();
    let alignment = directory.direct_io_alignment().unwrap();
    assert!(alignment.is_power_of_two() && alignment >= 4096, "{alignment}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_file_without_direct_io_has_no_alignment() {
    let (_temporary, directory) = fresh();
    let mut statx = rustix::fs::statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).unwrap();
    statx.stx_mask = StatxFlags::DIOALIGN.bits();
    for (memory, offset, expected) in [(0, 0, None), (4, 512, Some(4096)), (512, 16384, Some(16384))] {
        (statx.stx_dio_mem_align, statx.stx_dio_offset_align) = (memory, offset);
        assert_eq!(DirectIo::from_statx(&statx).map(DirectIo::block), expected);
    }
    statx.stx_mask = 0;
    assert_eq!(DirectIo::from_statx(&statx).map(DirectIo::block), Some(4096));
}

#[test]
fn a_lock_is_seen_without_trying_to_take_it() {
    let locks = "1: FLOCK  ADVISORY  WRITE 5135 fe:00:1835013 0 EOF\n\
        2: POSIX  ADVISORY  READ 12 fe:00:99 128 128\n2: -> FLOCK  ADVISORY  WRITE 7 fe:00:98 0 EOF\n";
    assert!(is_locked(locks, "fe:00:1835013"));
    assert!(!is_locked(locks, "fe:00:99"), "no flock");
    assert!(!is_locked(locks, "fe:00:98"), "only waited for");
    assert!(!is_locked("", "fe:00:1"));

    let path = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let visitor = Directory::open_unlocked(path.path()).unwrap();
    assert!(!visitor.is_in_use());
    let owner = Directory::open(path.path()).unwrap();
    assert!(visitor.is_in_use());
    drop(owner);
    assert!(!visitor.is_in_use());
}
