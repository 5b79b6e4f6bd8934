//! Disks whose server was killed: found by their names, and taken away.
//!
//! A disk has a directory `walring-disk-XXXXXX` with two mount points, and its server holds a lock on it
//! (`flock`). Who gets that lock knows that the server is gone, and keeps it while it takes the disk away. A
//! new disk's directory is made and locked while the directory above it is locked, so that nobody takes it for
//! a dead one in between.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::programs::{loop_devices, mount_points, run};

/// How all names begin.
pub const PREFIX: &str = "walring-disk-";

/// Where the FUSE file system is, in a disk's directory.
pub const IMAGE: &str = "image";

/// Where the disk's file system is, in a disk's directory.
pub const MOUNTED: &str = "disk";

/// Holds the lock on a directory; dropping it gives the lock back.
#[derive(Debug)]
pub struct Locked {
    _directory: File,
}

impl Locked {
    /// `None` where someone else holds it.
    pub fn now(directory: &Path) -> std::io::Result<Option<Locked>> {
        let file = File::open(directory)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Locked { _directory: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for it as long as a cleaning may take; `None` after that.
    pub fn soon(directory: &Path) -> std::io::Result<Option<Locked>> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match Locked::now(directory)? {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                other => return Ok(other),
            }
        }
    }
}

/// Takes away all dead disks: those below `base`, and those that are still mounted anywhere. What cannot be
/// taken away stays for the next time.
pub fn take_away(base: &Path) {
    for directory in candidates(base) {
        if let Ok(Some(_dead)) = Locked::now(&directory) {
            take_one_away(&directory);
        }
    }
    for (device, file) in loop_devices().unwrap_or_default() {
        if is_orphan(&device, &file) {
            let _ = run("losetup", &[&"--detach", &device]);
        }
    }
}

/// Directories of disks, dead or not.
fn candidates(base: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
    };
    let listed = std::fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mounted = mount_points()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|point| {
            let is_part = point.ends_with(IMAGE) || point.ends_with(MOUNTED);
            is_part.then(|| point.parent().map(Path::to_path_buf)).flatten()
        });
    let mut found: Vec<PathBuf> = listed.chain(mounted).filter(|path| is_ours(path)).collect();
    found.sort();
    found.dedup();
    found
}

fn take_one_away(directory: &Path) {
    let (image, mounted) = (directory.join(IMAGE), directory.join(MOUNTED));
    let is_mounted = |point: &Path| {
        mount_points()
            .unwrap_or_default()
            .iter()
            .any(|mount| mount == point)
    };
    // Its disk gives errors by now, so nothing is waited for, and nothing is lost.
    if is_mounted(&mounted) && run("umount", &[&mounted]).is_err() {
        let _ = run("umount", &[&"--lazy", &mounted]);
    }
    for (device, file) in loop_devices().unwrap_or_default() {
        if Path::new(&file).starts_with(&image) {
            let _ = run("losetup", &[&"--detach", &device]);
        }
    }
    if is_mounted(&image) && run("umount", &[&image]).is_err() {
        let _ = run("umount", &[&"--lazy", &image]);
    }
    // Not recursively: whatever is still mounted or unknown stays.
    for directory in [&mounted, &image, directory] {
        let _ = std::fs::remove_dir(directory);
    }
}

/// Whether a loop device is on one of our files whose file system is not mounted any more, and dead: a disk of
/// another mount namespace looks the same, but can be read.
fn is_orphan(device: &Path, file: &str) -> bool {
    use std::io::Read;
    let name = Path::new(file)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let dead = || {
        File::open(device)
            .and_then(|mut open| open.read_exact(&mut [0; 512]))
            .is_err()
    };
    name.starts_with(PREFIX) && !Path::new(file).exists() && dead()
}
