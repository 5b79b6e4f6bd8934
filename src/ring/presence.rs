//! Whether what is written to is still where its reader will look for it.
//!
//! A file that was removed takes writes and syncs as before, and so does one in a directory that was
//! moved, replaced or unmounted: nothing fails, and what is acknowledged is nowhere. So it is looked, now
//! and then, whether the names still lead to what is open. Finished segments are nobody's business but
//! their owner's: archives are cleaned up while they are received into.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::error::{Error, Result, system_text};

/// How often to look. A look is a few system calls that read no disk.
pub const ROUND: Duration = Duration::from_secs(1);

/// Checks that `path` leads to the open directory.
pub fn check_directory(path: &Path, directory: impl AsFd) -> Result<()> {
    let what = format!("directory \"{}\"", path.display());
    match look(path, directory).map_err(|error| cannot_stat(&what, &error))? {
        (_, None) => Err(gone(&what, "was removed, renamed or unmounted")),
        (open, Some(found)) if is_same(&open, &found) => Ok(()),
        _ => Err(gone(
            &what,
            "is not the one that is received into: it was replaced, unmounted or mounted over",
        )),
    }
}

/// Checks that `path` leads to the open file, and that it has all its bytes.
pub fn check_file(path: &Path, file: impl AsFd, bytes: u64) -> Result<()> {
    let what = format!("WAL file \"{}\"", path.display());
    match look(path, file).map_err(|error| cannot_stat(&what, &error))? {
        (_, None) => Err(gone(&what, "was removed or renamed")),
        (open, Some(found)) if !is_same(&open, &found) => {
            Err(gone(&what, "is not the one that is written to: it was replaced"))
        }
        (open, _) if u64::try_from(open.st_size).unwrap_or(0) < bytes => {
            let length = open.st_size;
            let how = format!("was truncated: it has {length} bytes, not {bytes}");
            Err(gone(&what, &how))
        }
        _ => Ok(()),
    }
}

/// What was read a moment ago is not there any more when it is to be gone on with.
pub fn removed(path: &str) -> Error {
    gone(&format!("WAL file \"{path}\""), "was removed or renamed")
}

/// What is open, and what the path leads to, if to anything.
fn look(path: &Path, open: impl AsFd) -> io::Result<(Stat, Option<Stat>)> {
    let open = rustix::fs::fstat(open)?;
    match rustix::fs::stat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok((open, None)),
        found => Ok((open, Some(found?))),
    }
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn gone(what: &str, how: &str) -> Error {
    Error::disk_broken(format!("{what} {how}"))
        .with_detail("Nothing more is acknowledged. What was acknowledged before may be lost.")
        .with_hint("Put back what was there and start again; if it is lost, make a new base backup.")
}

fn cannot_stat(what: &str, error: &io::Error) -> Error {
    let message = format!("could not stat {what}: {}", system_text(error));
    Error::of_disk(message, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_directory_is_there_until_its_name_leads_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("wal");
        fs::create_dir(&path).unwrap();
        let open = File::open(&path).unwrap();
        let told = || check_directory(&path, &open).map_err(|error| error.to_string());
        assert_eq!(told(), Ok(()));
        fs::rename(&path, home.path().join("elsewhere")).unwrap();
        assert!(told().unwrap_err().contains("was removed"));
        fs::create_dir(&path).unwrap();
        assert!(told().unwrap_err().contains("was replaced"));
    }

    #[test]
    fn a_file_is_there_with_all_its_bytes_until_its_name_leads_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, [1; 10]).unwrap();
        let open = File::options().write(true).open(&path).unwrap();
        let told = || check_file(&path, &open, 10).map_err(|error| error.to_string());
        assert_eq!(told(), Ok(()));
        open.set_len(9).unwrap();
        assert!(
            told()
                .unwrap_err()
                .contains("was truncated: it has 9 bytes, not 10")
        );
        fs::remove_file(&path).unwrap();
        assert!(told().unwrap_err().contains("was removed"));
        fs::write(&path, [1; 10]).unwrap();
        assert!(told().unwrap_err().contains("was replaced"));
    }
}
