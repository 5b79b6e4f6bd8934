//! What a disk was asked to do, from the kernel's block statistics.

use std::fs;
use std::path::{Path, PathBuf};

/// What the device under a file system has done since the machine began, for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Written to it, bytes.
    pub bytes_written: u64,
    /// Flushes of its cache. A device whose cache needs none is asked for none, and counts zero.
    pub flushes: u64,
}

/// The device of the file system that holds `path`; `None` where there is no block device below (tmpfs,
/// overlay, network), or none that counts.
///
/// Bytes are the partition's. Flushes are counted by the disk that has a queue: the whole disk for a
/// partition, and for a mapped device that lies on one other, that one.
pub fn device(path: &Path) -> Option<Device> {
    let number = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let directory = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let flushing = with_queue(directory.clone());
    parse(
        &fs::read_to_string(directory.join("stat")).ok()?,
        &fs::read_to_string(flushing.join("stat")).ok()?,
    )
}

/// The disk that does what is asked of the block device in this directory of /sys.
fn with_queue(directory: PathBuf) -> PathBuf {
    if directory.join("partition").exists()
        && let Some(disk) = directory.parent()
    {
        return with_queue(disk.to_owned());
    }
    let mut below = fs::read_dir(directory.join("slaves"))
        .into_iter()
        .flatten()
        .flatten();
    match (below.next(), below.next()) {
        (Some(only), None) => fs::canonicalize(only.path()).map_or(directory, with_queue),
        _ => directory,
    }
}

/// Reads `stat` files (Documentation/block/stat.rst): the 7th field is sectors of 512 bytes written, the
/// 16th flushes; before Linux 5.5 there was none.
fn parse(stat: &str, flushing: &str) -> Option<Device> {
    let field = |text: &str, index: usize| text.split_whitespace().nth(index)?.parse::<u64>().ok();
    Some(Device {
        bytes_written: field(stat, 6)? * 512,
        flushes: field(flushing, 15)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_fields_are_those_of_the_documentation() {
        let stat = "  1 2 3 4 5 6 700 8 9 10 11 12 13 14 15 160 17\n";
        let expected = Device {
            bytes_written: 700 * 512,
            flushes: 160,
        };
        assert_eq!(parse(stat, stat), Some(expected));
        assert_eq!(parse("1 2 3", "1 2 3"), None);
    }

    #[test]
    fn a_durable_write_is_seen_on_its_device() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let Some(before) = device(file.path()) else {
            eprintln!("skipped: the device's counters: the file system has no block device");
            return;
        };
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.as_file().sync_all().unwrap();
        let after = device(file.path()).expect("it is still there");
        assert!(
            after.bytes_written >= before.bytes_written + (1 << 20),
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn memory_and_what_does_not_exist_have_no_device() {
        assert_eq!(device(Path::new("/proc")), None);
        assert_eq!(device(Path::new("/no/such/file")), None);
    }
}
