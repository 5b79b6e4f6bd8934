//! The emulated disk: keeps what was written, takes its time, counts, and leaves nothing behind.
//!
//! Needs root, FUSE and loop devices; a test that cannot have them says `skipped` and why.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use walring_perf::disk::{Behaviour, EdgeDisk, Error, Faults, Profile, Settings};

/// What cannot be tested here is said at the end.
#[path = "../../tests/common/skip.rs"]
mod skip;

use skip::skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_walring-perf");

fn settings(write_ms: u64, flush_ms: u64) -> Settings {
    let profile = Profile {
        key: "test",
        about: "a disk for a test",
        write: Duration::from_millis(write_ms),
        flush: Duration::from_millis(flush_ms),
        rotation: None,
    };
    Settings {
        size_mib: 128,
        program: Some(PROGRAM.into()),
        ..Settings::new(profile)
    }
}

/// A disk, or `None` and a line that says why not.
fn disk(write_ms: u64, flush_ms: u64) -> Option<EdgeDisk> {
    match EdgeDisk::with(&settings(write_ms, flush_ms)) {
        Ok(disk) => Some(disk),
        Err(Error::Unavailable(why)) => {
            skip(&format!("the emulated disk: {why}"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A file of zeros that were really written and synced, opened for direct I/O.
fn written_file(disk: &EdgeDisk, name: &str, flags: i32) -> File {
    let path = disk.path().join(name);
    std::fs::write(&path, vec![0; 1 << 20]).expect("zeros");
    File::open(&path).expect("the file").sync_all().expect("a sync");
    OpenOptions::new()
        .write(true)
        .read(true)
        .custom_flags(flags | libc::O_DIRECT)
        .open(&path)
        .expect("the file")
}

/// 4096 bytes at an address that direct I/O takes.
#[repr(align(4096))]
struct Block([u8; 4096]);

fn backing_file(disk: &EdgeDisk) -> PathBuf {
    let name = disk
        .device()
        .file_name()
        .expect("a device")
        .to_string_lossy()
        .into_owned();
    let file = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).expect("its file");
    file.trim_end().into()
}

/// What is left of the disk in this directory: mounts, loop devices, the directory itself.
fn left(directory: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let name = directory.to_string_lossy().into_owned();
    let mut left: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(&name))
        .map(String::from)
        .collect();
    let base = directory
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    for entry in std::fs::read_dir("/sys/block").expect("the devices") {
        let entry = entry.expect("a device");
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file"))
            && file.contains(&base)
        {
            left.push(entry.path().display().to_string());
        }
    }
    if directory.exists() {
        left.push(name);
    }
    left
}

/// Waits until nothing is left: whoever takes it away is another process.
fn gone(directory: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    while !left(directory).is_empty() {
        assert!(Instant::now() < until, "left: {:?}", left(directory));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn directory(disk: &EdgeDisk) -> PathBuf {
    disk.path().parent().expect("its directory").to_path_buf()
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process");
    kill_process(pid, signal).expect("a signal");
}

#[test]
fn content_survives_unmounting() {
    let Some(disk) = disk(0, 0) else { return };
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    std::fs::write(disk.path().join("file"), &content).expect("a file");
    for step in [&["umount"][..], &["mount", "-t", "ext4"][..]] {
        let mut command = Command::new(step[0]);
        command.args(&step[1..]);
        if step[0] == "mount" {
            command.arg(disk.device());
        }
        assert!(command.arg(disk.path()).status().expect("the program").success());
    }
    assert!(std::fs::read(disk.path().join("file")).expect("the file") == content);
    disk.close().expect("nothing stays");
}

#[test]
fn a_flush_takes_its_time_and_a_write_does_not() {
    let flush = Duration::from_millis(300);
    let Some(disk) = disk(0, 300) else { return };
    let file = written_file(&disk, "file", 0);
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        file.write_all_at(&Block([1; 4096]).0, 0).expect("a write");
        quickest = quickest.min(began.elapsed());
        let began = Instant::now();
        file.sync_data().expect("a flush");
        assert!(began.elapsed() >= flush, "{:?}", began.elapsed());
    }
    assert!(quickest < flush, "{quickest:?}");
}

#[test]
fn a_write_takes_its_time() {
    let Some(disk) = disk(20, 0) else { return };
    let file = written_file(&disk, "file", 0);
    let began = Instant::now();
    file.write_all_at(&Block([1; 4096]).0, 0).expect("a write");
    assert!(
        began.elapsed() >= Duration::from_millis(20),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_disk_answers_while_it_flushes() {
    let flush = Duration::from_secs(1);
    let Some(disk) = disk(0, 1000) else { return };
    let file = written_file(&disk, "file", 0);
    let image = backing_file(&disk);
    // A busy machine may hold up one read, not each. A disk that is deaf answers right behind the flush.
    let answered = (0..5).any(|_| {
        file.write_all_at(&Block([1; 4096]).0, 0).expect("a write");
        let before = disk.counters().expect("counters").flushes;
        std::thread::scope(|scope| {
            let flushed = scope.spawn(|| file.sync_data().map(|()| Instant::now()).expect("a flush"));
            while disk.counters().expect("counters").flushes == before {
                std::thread::sleep(Duration::from_millis(1));
            }
            File::open(&image)
                .and_then(|mut image| image.read_exact(&mut [0; 4096]))
                .expect("a read");
            let read = Instant::now();
            flushed.join().expect("the flush").saturating_duration_since(read) > flush / 4
        })
    });
    assert!(answered, "five reads of five came only when the flush had ended");
}

#[test]
fn counters_count_exactly() {
    let Some(disk) = disk(0, 0) else { return };
    let file = written_file(&disk, "file", 0);
    let durable = written_file(&disk, "durable", libc::O_DSYNC);
    let sync = || rustix::fs::syncfs(File::open(disk.path()).expect("the directory")).expect("a sync");

    sync();
    let before = disk.counters().expect("counters");
    file.write_all_at(&Block([1; 4096]).0, 8192).expect("a write");
    file.sync_data().expect("a flush");
    let one = disk.counters().expect("counters").since(before);
    assert_eq!(
        (one.writes, one.bytes_written, one.flushes),
        (1, 4096, 1),
        "a write and one fdatasync"
    );

    sync();
    let before = disk.counters().expect("counters");
    for block in 0..50 {
        durable
            .write_all_at(&Block([2; 4096]).0, block * 4096)
            .expect("a durable write");
    }
    let many = disk.counters().expect("counters").since(before);
    assert_eq!(
        (many.writes, many.bytes_written, many.flushes),
        (50, 50 * 4096, 50),
        "durable writes"
    );
}

#[test]
fn commands_fail_while_that_is_wanted() {
    let Some(disk) = disk(0, 0) else { return };
    let file = written_file(&disk, "file", 0);
    let works = Faults::default();
    let write = || {
        file.write_all_at(&Block([1; 4096]).0, 0)
            .map_err(|error| error.raw_os_error())
    };
    let flush = || file.sync_data().map_err(|error| error.raw_os_error());
    let fails = Behaviour::Fails;
    disk.set_faults(Faults {
        write: fails,
        ..works
    })
    .expect("faults");
    assert_eq!(write(), Err(Some(libc::EIO)));
    disk.set_faults(works).expect("no faults");
    assert_eq!((write(), flush()), (Ok(()), Ok(())));
    disk.set_faults(Faults {
        flush: fails,
        ..works
    })
    .expect("faults");
    assert_eq!((write(), flush()), (Ok(()), Err(Some(libc::EIO))));
    disk.set_faults(works).expect("no faults");
    drop(file);
    disk.close().expect("nothing stays");
}

#[test]
fn two_disks_are_apart() {
    let (Some(one), Some(other)) = (disk(0, 0), disk(0, 0)) else {
        return;
    };
    assert_ne!((one.device(), one.path()), (other.device(), other.path()));
    std::fs::write(one.path().join("file"), "one").expect("a file");
    std::fs::write(other.path().join("file"), "other").expect("a file");
    let directory = directory(&one);
    one.close().expect("nothing stays");
    assert_eq!(left(&directory), Vec::<String>::new());
    assert_eq!(
        std::fs::read_to_string(other.path().join("file")).expect("the file"),
        "other"
    );
}

#[test]
fn nothing_is_left_when_it_is_dropped() {
    let Some(disk) = disk(0, 0) else { return };
    std::fs::write(disk.path().join("file"), "content").expect("a file");
    let directory = directory(&disk);
    assert_eq!(
        left(&directory).len(),
        4,
        "two mounts, a loop device and a directory"
    );
    drop(disk);
    assert_eq!(left(&directory), Vec::<String>::new());
}

#[test]
fn nothing_is_left_of_one_that_failed_half_way() {
    let base = tempfile::tempdir().expect("a directory");
    let server = Command::new(PROGRAM)
        .args(["disk-server", "--size-mib", "0", "--filesystem", "ext4"])
        .args(["--write-us", "0", "--flush-us", "0", "--rotation-us", "0"])
        .env("TMPDIR", base.path())
        .stdin(Stdio::piped())
        .output()
        .expect("the server");
    let said = String::from_utf8_lossy(&server.stdout);
    if said.contains("Unavailable") {
        return skip(&format!("the emulated disk: {said}"));
    }
    assert!(said.contains("the file system could not be made"), "{said}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    assert!(!mounts.contains(&*base.path().to_string_lossy()), "{mounts}");
    assert_eq!(std::fs::read_dir(base.path()).expect("the directory").count(), 0);
}

#[test]
fn nothing_is_left_when_its_owner_is_ended_or_killed() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut owner = Command::new(PROGRAM)
            .args(["disk", "--profile", "nvme", "--size-mib", "128"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut path = String::new();
        let mut printed = BufReader::new(owner.stdout.take().expect("its output"));
        printed.read_line(&mut path).expect("a line");
        if path.is_empty() {
            let said = owner.wait_with_output().expect("its end").stderr;
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("no emulated disk here"), "{said}");
            return skip(&format!("the emulated disk: {said}"));
        }
        let directory = Path::new(path.trim_end())
            .parent()
            .expect("its directory")
            .to_path_buf();
        assert_eq!(left(&directory).len(), 4);
        kill(owner.id(), signal);
        let status = owner.wait().expect("its end");
        assert_eq!(status.code(), (signal != Signal::KILL).then_some(0), "{signal:?}");
        gone(&directory);
    }
}

#[test]
fn the_next_disk_takes_away_one_whose_server_was_killed() {
    let Some(disk) = disk(0, 0) else { return };
    let file = File::create(disk.path().join("file")).expect("a file");
    file.write_all_at(&[1; 100_000], 0).expect("a write");
    let directory = directory(&disk);
    assert_eq!(left(&directory).len(), 4);
    kill(disk.server_pid(), Signal::KILL);
    // It waits for the server, so the lock is free behind it. Another test's disk may come first.
    disk.close().expect_err("the server was killed");
    drop(file);
    let next = EdgeDisk::with(&settings(0, 0)).expect("another disk");
    gone(&directory);
    next.close().expect("nothing stays");
}

#[test]
fn another_user_hears_why_there_is_none() {
    let mut command = Command::new(PROGRAM);
    command.args(["disk", "--", "true"]);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains("no emulated disk here: only root can mount it"),
                "{said}"
            );
            assert_eq!(output.status.code(), Some(1));
        }
        Err(error) => skip(&format!(
            "the emulated disk: another user cannot run {PROGRAM}: {error}"
        )),
    }
}
