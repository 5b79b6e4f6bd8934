//! A file system of its own for a test: small, with O_DIRECT, to be filled or broken.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip::skip;
use super::wait::until;

/// A mounted ext4 image; unmounted, and its loop device given back, when it goes out of scope.
pub struct SmallDisk {
    home: tempfile::TempDir,
}

impl SmallDisk {
    /// A disk of so many megabytes; `None`, and reported as skipped, where none can be mounted.
    pub fn mount(megabytes: u64) -> Option<SmallDisk> {
        SmallDisk::mount_as("ext4", megabytes)
    }

    /// One with this file system: ext3 cannot allocate what is not written.
    pub fn mount_as(file_system: &str, megabytes: u64) -> Option<SmallDisk> {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("create a directory");
        let disk = SmallDisk { home };
        std::fs::create_dir(disk.path()).expect("create a mount point");
        let image = disk.home.path().join("image");
        let file = File::create(&image).expect("create an image");
        file.set_len(megabytes << 20).expect("size the image");
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", file_system, "-m", "0"]).arg(&image);
        let mounted = attempt(&mut make).and_then(|()| disk.attach());
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

    /// Mounts the image.
    fn attach(&self) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(self.home.path().join("image"));
        attempt(mount.arg(self.path()))
    }

    /// Takes it away even from those who have files open there.
    pub fn detach_lazily(&self) {
        attempt(Command::new("umount").arg("--lazy").arg(self.path())).expect("unmount the disk");
    }

    /// Mounts it anew, as after a repair. Nobody may use it.
    pub fn mount_again(&self) {
        // The kernel keeps a file of a process that has ended as long as an operation on it runs.
        until("the disk can be unmounted", || {
            attempt(Command::new("umount").arg(self.path())).ok()
        });
        self.attach().expect("mount the disk again");
    }

    /// Leaves only so many megabytes free, until [`SmallDisk::make_room`].
    pub fn fill_up_to(&self, megabytes: u64) {
        self.fill_up_to_kilobytes(megabytes << 10);
    }

    /// The same in kilobytes.
    pub fn fill_up_to_kilobytes(&self, kilobytes: u64) {
        let free = rustix::fs::statvfs(self.path()).expect("ask for the free space");
        let bytes = (free.f_bavail * free.f_frsize)
            .checked_sub(kilobytes << 10)
            .expect("enough space to fill");
        let mut ballast = File::create(self.ballast()).expect("create a file");
        let allocated = rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, bytes);
        if allocated == Err(rustix::io::Errno::OPNOTSUPP) {
            std::io::copy(&mut std::io::repeat(1).take(bytes), &mut ballast).expect("fill the disk");
            return ballast.sync_all().expect("fill the disk");
        }
        allocated.expect("fill the disk");
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

    /// Lets its file system find an error in itself, after which the kernel makes it read-only
    /// (`errors=remount-ro`).
    pub fn find_an_error(&self) {
        let remount = ["-o", "remount,errors=remount-ro"];
        attempt(Command::new("mount").args(remount).arg(self.path())).expect("remount the disk");
        let device = mounted_device(&self.path()).expect("a mounted device");
        let name = device.rsplit('/').next().unwrap_or_default();
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        std::fs::write(trigger, "a test").expect("trigger an error of the file system");
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
    mounted_device(path).is_some()
}

/// What is mounted there.
fn mounted_device(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut fields| {
        let device = fields.next()?.to_owned();
        (fields.next() == path.to_str()).then_some(device)
    })
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
