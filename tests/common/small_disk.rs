//! A file system of its own for a test: small, with O_DIRECT, to be filled or broken.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip::skip;

/// A mounted ext4 image; unmounted, and its loop device given back, when it goes out of scope.
pub struct SmallDisk {
    home: tempfile::TempDir,
}

impl SmallDisk {
    /// A disk of so many megabytes; `None`, and reported as skipped, where none can be mounted.
    pub fn mount(megabytes: u64) -> Option<SmallDisk> {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("create a directory");
        let disk = SmallDisk { home };
        std::fs::create_dir(disk.path()).expect("create a mount point");
        let image = disk.home.path().join("image");
        let file = File::create(&image).expect("create an image");
        file.set_len(megabytes << 20).expect("size the image");
        let mounted = attempt(
            Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-m", "0"])
                .arg(&image),
        )
        .and_then(|()| {
            attempt(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&image)
                    .arg(disk.path()),
            )
        });
        match mounted {
            Ok(()) => Some(disk),
            Err(error) => {
                skip(&format!("a full disk: no image can be mounted here: {error}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    /// Leaves only so many megabytes free, until [`SmallDisk::make_room`].
    pub fn fill_up_to(&self, megabytes: u64) {
        let free = rustix::fs::statvfs(self.path()).expect("ask for the free space");
        let bytes = (free.f_bavail * free.f_frsize)
            .checked_sub(megabytes << 20)
            .expect("enough space to fill");
        let ballast = File::create(self.ballast()).expect("create a file");
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, bytes)
            .expect("fill the disk");
    }

    /// Removes what [`SmallDisk::fill_up_to`] put there.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("remove a file");
    }

    /// Makes it read-only at once, also for open files, as the kernel does after an error of the device.
    pub fn abort(&self) {
        attempt(
            Command::new("mount")
                .args(["-o", "remount,abort"])
                .arg(self.path()),
        )
        .expect("abort the disk");
    }

    /// Lets everything that writes to it wait, until the answer goes out of scope.
    pub fn freeze(&self) -> Frozen {
        attempt(Command::new("fsfreeze").arg("--freeze").arg(self.path())).expect("freeze the disk");
        Frozen { path: self.path() }
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

/// A disk that does nothing. What waits for it cannot even be killed: it has to go out of scope first.
pub struct Frozen {
    path: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = attempt(Command::new("fsfreeze").arg("--unfreeze").arg(&self.path));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if is_mounted(&self.path()) {
            // What still has files open there, ends soon; the device is given back then.
            let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// Runs a command; what it said if it failed.
fn attempt(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
