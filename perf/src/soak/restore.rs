//! The last check: a base backup and what was received since must have every commit that was acknowledged.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::traffic::Shared;
use crate::primary::{Installation, Primary, new_home};
use crate::receiver::copy_primary;

/// A base backup without WAL.
pub struct Backup {
    home: TempDir,
    /// The name of the first segment it needs.
    first: String,
}

impl Backup {
    /// Takes one.
    pub fn take(installation: &Installation, primary: &Primary) -> Result<Backup> {
        let home = new_home(installation)?;
        let data = home.path().join("data");
        fs::create_dir(&data)?;
        copy_primary(installation, primary, &data)?;
        let label = fs::read_to_string(data.join("backup_label")).context("read the backup's label")?;
        let first = first_segment(&label).context("the backup's label names no segment")?;
        Ok(Backup {
            first: first.to_owned(),
            home,
        })
    }

    /// Removes segments that it does not need.
    pub fn remove_older(&self, copies: &Path) -> Result<()> {
        for entry in fs::read_dir(copies)? {
            let entry = entry?;
            if *entry.file_name().to_string_lossy() < *self.first {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// A server on the backup and these segments, recovered as far as they reach.
    pub fn restore(self, installation: &Installation, copies: &Path, of: &Primary) -> Result<Primary> {
        let pg_wal = self.home.path().join("data/pg_wal");
        for entry in fs::read_dir(copies)? {
            let name = entry?.file_name();
            if *name.to_string_lossy() >= *self.first {
                fs::copy(copies.join(&name), pg_wal.join(&name)).context("copy a segment for the restore")?;
                installation.give(&pg_wal.join(&name))?;
            }
        }
        Primary::open(
            installation,
            self.home,
            of.password().to_owned(),
            of.segment_bytes(),
            "synchronous_standby_names = ''\n",
        )
        .context("restore the base backup with what was received")
    }
}

/// Every commit that was acknowledged must be there. Returns how many they are.
pub fn check_commits(restored: &mut Primary, load: &Shared) -> Result<u64> {
    let mut found = 0;
    for (client, ranges) in load.acknowledged().into_iter().enumerate() {
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            let count: i64 = restored.value(&format!(
                "SELECT count(*) FROM ledger WHERE client = {client} AND number >= {} AND number < {}",
                range.start, range.end
            ))?;
            if count != range.end - range.start {
                bail!(
                    "lost: of the commits {range:?} of client {client}, all acknowledged, a restore has {count}"
                );
            }
            found += count.unsigned_abs();
        }
    }
    Ok(found)
}

/// The name of the first segment that a backup needs, as its label has it.
fn first_segment(label: &str) -> Option<&str> {
    let (_, behind) = label.split_once("START WAL LOCATION: ")?;
    let (_, name) = behind.lines().next()?.split_once("(file ")?;
    name.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_segment_is_read_from_the_label() {
        let label =
            "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2\n";
        assert_eq!(first_segment(label), Some("000000010000000000000002"));
        assert_eq!(first_segment("nothing"), None);
    }
}
