//! Where a directory is mounted from, and what the kernel tells of the disk below.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    device: (u32, u32),
    mount_point: String,
    options: String,
    file_system: String,
    source: String,
    super_options: String,
}

impl Mount {
    /// The mount with this id, or where the kernel tells none, the last one whose mount point lies above
    /// `path`, which must be absolute.
    pub fn find(id: Option<u64>, path: &Path) -> Option<Mount> {
        let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Mount::find_in(&text, id, path)
    }

    fn find_in(text: &str, id: Option<u64>, path: &Path) -> Option<Mount> {
        let mut mounts: Vec<Mount> = text.lines().filter_map(Mount::parse).collect();
        if let Some(index) = mounts.iter().position(|mount| Some(mount.id) == id) {
            return Some(mounts.swap_remove(index));
        }
        let above = |mount: &Mount| path.starts_with(&mount.mount_point);
        // Of two on the same place the later one is on top.
        mounts
            .into_iter()
            .filter(above)
            .max_by_key(|mount| mount.mount_point.len())
    }

    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &str) -> Option<Mount> {
        let (mount, super_block) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let id = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let mount_point = unescape(fields.nth(1)?);
        let options = fields.next()?.to_owned();
        let mut fields = super_block.split(' ');
        Some(Mount {
            id,
            device: (major.parse().ok()?, minor.parse().ok()?),
            mount_point,
            options,
            file_system: fields.next()?.to_owned(),
            source: unescape(fields.next()?),
            super_options: fields.next().unwrap_or_default().to_owned(),
        })
    }

    /// The number of the block device. File systems with a number of their own, as btrfs has, are asked
    /// for the name of one of their devices.
    fn block_device(&self) -> Option<(u32, u32)> {
        if self.device.0 != 0 {
            return Some(self.device);
        }
        let source = self.source.starts_with("/dev/").then_some(&self.source)?;
        let number = fs::metadata(source).ok()?.rdev();
        Some((rustix::fs::major(number), rustix::fs::minor(number)))
    }
}

/// Blanks and the like are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| first == b'\\');
        let octal = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &behind[3..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// `ext4`, `xfs` and so on.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where it is mounted.
    pub mount_point: Option<String>,
    /// What is mounted there: a device, or a word.
    pub source: Option<String>,
    /// The options of this mount.
    pub options: Option<String>,
    /// The options of the file system.
    pub super_options: Option<String>,
    /// Bytes that a process without privileges may still use.
    pub free_bytes: Option<u64>,
}

impl FileSystem {
    /// All but the free space, as far as it is known.
    pub fn of(mount: Option<&Mount>) -> FileSystem {
        let Some(mount) = mount else {
            return FileSystem::default();
        };
        FileSystem {
            kind: Some(mount.file_system.clone()),
            mount_point: Some(mount.mount_point.clone()),
            source: Some(mount.source.clone()),
            options: Some(mount.options.clone()),
            super_options: Some(mount.super_options.clone()),
            free_bytes: None,
        }
    }
}

/// The block device below the file system, as the kernel sees it; `None` is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The kernel's name of the whole disk, `sda` for `sda1`.
    pub name: Option<String>,
    /// Whether one write can be durable without a flush of the whole disk (forced unit access).
    pub fua: Option<bool>,
    /// `write back` needs flushes, `write through` does not.
    pub write_cache: Option<String>,
    /// Whether it has platters, as far as it says.
    pub rotational: Option<bool>,
}

impl Device {
    /// What is known of the device that is mounted.
    pub fn of(mount: Option<&Mount>) -> Device {
        let number = mount.and_then(Mount::block_device);
        let Some((major, minor)) = number else {
            return Device::default();
        };
        Device::at(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
    }

    /// A partition has no queue of its own: it uses that of its disk, which is the directory above.
    fn at(path: &Path) -> Device {
        let Ok(mut path) = fs::canonicalize(path) else {
            return Device::default();
        };
        if path.join("partition").exists() {
            path.pop();
        }
        let queue = path.join("queue");
        let read = |name: &str| {
            let text = fs::read_to_string(queue.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let flag = |name: &str| match read(name)?.as_str() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        Device {
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
            fua: flag("fua"),
            write_cache: read("write_cache"),
            rotational: flag("rotational"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,discard
nonsense
31 27 0:30 /wal /srv/my\\040wal rw,noatime master:1 shared:2 - btrfs /dev/sdb1 rw,space_cache=v2
32 27 8:1 / /srv ro - xfs /dev/sda1 ro
";

    fn mounted(id: Option<u64>, path: &str) -> Option<String> {
        let mount = Mount::find_in(TEXT, id, Path::new(path));
        mount.map(|mount| format!("{} {}", mount.file_system, mount.mount_point))
    }

    #[test]
    fn a_line_is_taken_apart() {
        let mount = Mount::find_in(TEXT, Some(31), Path::new("/")).unwrap();
        let expected = Mount {
            id: 31,
            device: (0, 30),
            mount_point: "/srv/my wal".to_owned(),
            options: "rw,noatime".to_owned(),
            file_system: "btrfs".to_owned(),
            source: "/dev/sdb1".to_owned(),
            super_options: "rw,space_cache=v2".to_owned(),
        };
        assert_eq!(mount, expected);
    }

    #[test]
    fn the_id_decides_and_without_one_the_nearest_mount_point_above() {
        assert_eq!(mounted(Some(27), "/srv/x").unwrap(), "ext4 /");
        assert_eq!(mounted(None, "/srv/my wal/a").unwrap(), "btrfs /srv/my wal");
        assert_eq!(mounted(None, "/srv/my").unwrap(), "xfs /srv");
        assert_eq!(mounted(None, "/srvx").unwrap(), "ext4 /");
        assert_eq!(mounted(Some(99), "/home").unwrap(), "ext4 /");
        assert_eq!(Mount::find_in("", None, Path::new("/")), None);
    }

    #[test]
    fn only_octal_escapes_are_undone() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("a\\999b\\"), "a\\999b\\");
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("sda");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::create_dir_all(disk.join("sda1")).unwrap();
        fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        for (name, text) in [
            ("fua", "1\n"),
            ("write_cache", "write back\n"),
            ("rotational", "0\n"),
        ] {
            fs::write(disk.join("queue").join(name), text).unwrap();
        }
        let expected = Device {
            name: Some("sda".to_owned()),
            fua: Some(true),
            write_cache: Some("write back".to_owned()),
            rotational: Some(false),
        };
        assert_eq!(Device::at(&disk.join("sda1")), expected);
        assert_eq!(Device::at(&disk), expected);
        assert_eq!(Device::at(Path::new("/nowhere")), Device::default());
    }
}
