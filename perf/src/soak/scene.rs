//! What takes part in a soak: the primary, two receivers, the links to them, the disk they store on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use super::Options;
use super::archive::Archive;
use super::receivers::Receiver;
use super::relay::Relay;
use super::restore::Backup;
use super::traffic::{SCHEMA, Shared};
use crate::disk::{EdgeDisk, Profile, Settings};
use crate::interrupt;
use crate::primary::{Installation, Primary, RECEIVER_NAME};
use crate::receiver::Programs;
use crate::site::Site;

/// Of the two receivers, the synchronous one, whose process faults may end.
pub const RECEIVER: usize = 0;

/// The asynchronous one, which lives from the beginning to the end.
pub const WITNESS: usize = 1;

/// Only what hangs takes as long.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

/// The primary keeps little WAL by itself, has checkpoints often, and gives up links that are silent.
const PRIMARY_SETTINGS: &str = "max_wal_size = 256MB\nmin_wal_size = 32MB\ncheckpoint_timeout = 1min\n\
     wal_sender_timeout = 6s\n";

/// The size of the emulated disk, MiB: with room for what piles up while an archiver waits.
const DISK_MIB: u64 = 512;

/// Everything that runs, and where it stores. All of it goes when this goes out of scope.
pub struct Scene {
    /// The programs.
    pub programs: Programs,
    /// The last base backup.
    pub backup: Option<Backup>,
    /// The synchronous receiver and the witness.
    pub receivers: [Receiver; 2],
    /// What they store.
    pub archives: [Arc<Mutex<Archive>>; 2],
    /// The links to them.
    pub relays: [Relay; 2],
    /// What they receive from.
    pub primary: Primary,
    /// Where the receivers began.
    pub first: u64,
    /// What has been acknowledged to clients, once there is a load.
    pub load: Option<Arc<Shared>>,
    /// Where finished segments are kept until the next base backup.
    pub copies: TempDir,
    /// The disk that can be filled.
    pub disk: Option<EdgeDisk>,
    /// What is said of the disk.
    pub disk_about: String,
    _directories: Vec<TempDir>,
}

impl Scene {
    /// Starts everything but the load.
    pub fn set(options: &Options) -> Result<Scene> {
        let programs = Programs::find_with(options.receiver.as_deref())?;
        std::fs::create_dir_all(&options.out)?;
        drop(Site::given(&options.dir)?);
        let (disk, disk_about) = small_disk(&options.disk)?;
        let parent = disk.as_ref().map_or(options.dir.as_path(), EdgeDisk::path);
        let mut primary = start_primary(&programs.installation, options.segment_mib)?;
        let first = primary.position("(SELECT min(restart_lsn) FROM pg_replication_slots)")?;
        let port = primary.port();
        let relays = [Relay::to(port)?, Relay::to(port)?];
        let copies = directory(&options.dir, "copies")?;
        let directories = vec![directory(parent, "receiver")?, directory(parent, "witness")?];
        let archive = |index: usize, copies: Option<PathBuf>| {
            let path = directories[index].path();
            let archive = Archive::new(path, &primary.pg_wal(), primary.segment_bytes(), first, copies);
            Arc::new(Mutex::new(archive))
        };
        let receiver = |index: usize, name, more: &[&str]| {
            let log = options.out.join(format!("{name}.log"));
            // Of an earlier run.
            let _ = std::fs::remove_file(&log);
            let directory = directories[index].path();
            let port = relays[index].port();
            Receiver::new(name, &programs, port, primary.password(), directory, log, more)
        };
        let timeout = "--receive-timeout=5";
        let mut scene = Scene {
            receivers: [
                receiver(RECEIVER, RECEIVER_NAME, &["--synchronous", timeout]),
                receiver(WITNESS, "witness", &["--status-interval=2", timeout]),
            ],
            archives: [
                archive(RECEIVER, Some(copies.path().to_owned())),
                archive(WITNESS, None),
            ],
            backup: None,
            relays,
            primary,
            first,
            load: None,
            copies,
            disk,
            disk_about,
            _directories: directories,
            programs,
        };
        for receiver in &mut scene.receivers {
            receiver.start()?;
        }
        scene.wait_until_streaming()?;
        scene.back_up()?;
        Ok(scene)
    }

    /// Both receivers run, and have said nothing bad.
    pub fn check_receivers(&mut self) -> Result<()> {
        self.receivers.iter_mut().try_for_each(Receiver::check)
    }

    /// Waits until both receivers have acknowledged what there is now, and, with a load, a commit has returned since.
    /// Returns how long that took.
    pub fn wait_until_streaming(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let commits = self.load.as_ref().map(|load| load.commits());
        let target = self.primary.flushed()?;
        let acknowledged = format!(
            "SELECT count(DISTINCT application_name) = 2 FROM pg_stat_replication \
             WHERE state = 'streaming' AND flush_lsn - '0/0' >= {target}"
        );
        let mut streaming = false;
        loop {
            self.check_receivers()?;
            interrupt::check()?;
            streaming = streaming || self.primary.value(&acknowledged)?;
            let commits_again = commits < self.load.as_ref().map(|load| load.commits()) || commits.is_none();
            if streaming && commits_again {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > PROGRESS_LIMIT {
                let what = match streaming {
                    true => "no commit was acknowledged",
                    false => "the receivers did not acknowledge what there was",
                };
                bail!("no progress within {} s: {what}", PROGRESS_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What was acknowledged to clients before this moment must be in the receiver's directory.
    pub fn check_stored(&self) -> Result<()> {
        let acknowledged = self.load.as_ref().map_or(0, |load| load.position());
        lock(&self.archives[RECEIVER]).check(acknowledged)
    }

    /// Takes a base backup, and forgets the WAL that only an earlier one needs.
    pub fn back_up(&mut self) -> Result<()> {
        // The earlier one goes first, so that there is room.
        self.backup = None;
        let backup = Backup::take(&self.programs.installation, &self.primary)?;
        backup.remove_older(self.copies.path())?;
        self.backup = Some(backup);
        Ok(())
    }

    /// Ends both receivers, which must have everything before `end`.
    pub fn end_receivers(&mut self, end: u64) -> Result<()> {
        for (receiver, archive) in self.receivers.iter_mut().zip(&self.archives) {
            receiver.end(Signal::TERM)?;
            lock(archive).look(end)?;
        }
        Ok(())
    }
}

/// A primary with what the load needs, and a slot for each receiver.
fn start_primary(installation: &Installation, segment_mib: u32) -> Result<Primary> {
    let mut primary = Primary::start_with(installation, segment_mib, PRIMARY_SETTINGS)?;
    primary.execute(SCHEMA)?;
    primary.keep_wal()?;
    for slot in [RECEIVER_NAME, "witness"] {
        primary.execute(&format!(
            "SELECT pg_create_physical_replication_slot('{slot}', true)"
        ))?;
    }
    Ok(primary)
}

/// A disk in memory that can be filled, or none, and what to say of it.
fn small_disk(key: &str) -> Result<(Option<EdgeDisk>, String)> {
    if key == "given" {
        return Ok((None, "the disk of the directory given".to_owned()));
    }
    let Some(profile) = Profile::named(key) else {
        bail!("--disk: no \"{key}\"; there are given, nvme, ssd, emmc, hdd");
    };
    let settings = Settings {
        size_mib: DISK_MIB,
        ..Settings::new(profile)
    };
    match EdgeDisk::with(&settings) {
        Ok(disk) => Ok((Some(disk), format!("{}, {DISK_MIB} MiB, ext4", profile.about))),
        Err(crate::disk::Error::Unavailable(why)) => Ok((
            None,
            format!("the disk of the directory given, which is never full (no emulated one: {why})"),
        )),
        Err(error) => Err(error.into()),
    }
}

fn directory(parent: &Path, name: &str) -> Result<TempDir> {
    let prefix = format!("walring-soak-{name}-");
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?)
}

/// Waits, unless it is to end.
pub fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A lock that a thread which panicked has held is of use yet.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
