//! What a receiver has stored, compared with the primary's segments byte for byte: a fast receiver that writes
//! one wrong byte fails the comparison.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A receiver's directory beside the primary's `pg_wal`, both on timeline 1.
pub struct Stored<'a> {
    /// What the receiver wrote.
    pub directory: &'a Path,
    /// What it should have written.
    pub pg_wal: &'a Path,
    /// Bytes in a segment.
    pub segment_bytes: u64,
}

impl Stored<'_> {
    /// The directory must hold what the primary has from the segment of `first` up to `acknowledged`, and no
    /// finished segment besides. Returns the bytes that were compared.
    pub fn check(&self, first: u64, acknowledged: u64) -> Result<u64> {
        let compared = self.check_bytes(first, acknowledged)?;
        let (from, to) = self.numbers(first, acknowledged);
        self.check_nothing_besides(from, to)?;
        Ok(compared)
    }

    /// As [`Stored::check`], whatever finished segments there are besides: they may lie ahead of what is known to be
    /// acknowledged.
    pub fn check_bytes(&self, first: u64, acknowledged: u64) -> Result<u64> {
        let (from, to) = self.numbers(first, acknowledged);
        (from..to)
            .map(|number| self.check_segment(number, acknowledged - number * self.segment_bytes))
            .sum()
    }

    /// The segments from that of `first` to the one with the last byte before `end`.
    fn numbers(&self, first: u64, end: u64) -> (u64, u64) {
        (first / self.segment_bytes, end.div_ceil(self.segment_bytes))
    }

    /// `bytes` were acknowledged from the segment's beginning on, perhaps more than it holds.
    fn check_segment(&self, number: u64, bytes: u64) -> Result<u64> {
        let name = self.name(number);
        let finished = self.directory.join(&name);
        let is_partial = !finished.exists() && bytes < self.segment_bytes;
        let (path, compared): (PathBuf, u64) = if is_partial {
            (self.directory.join(format!("{name}.partial")), bytes)
        } else {
            (finished, self.segment_bytes)
        };
        let original = read(&self.pg_wal.join(&name)).context("the primary's segment, to compare with")?;
        let stored = read(&path)?;
        if stored.len() as u64 != self.segment_bytes {
            bail!(
                "wrong: {} has {} bytes, not {}",
                path.display(),
                stored.len(),
                self.segment_bytes
            );
        }
        let length = usize::try_from(compared)?;
        if let Some(at) = original[..length]
            .iter()
            .zip(&stored[..length])
            .position(|(a, b)| a != b)
        {
            bail!(
                "wrong: {} differs from the primary's at byte {at}",
                path.display()
            );
        }
        Ok(compared)
    }

    fn check_nothing_besides(&self, from: u64, to: u64) -> Result<()> {
        for entry in fs::read_dir(self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_segment && !(from..to).any(|number| self.name(number) == name) {
                bail!("wrong: {name} is not between the first segment and the last acknowledged one");
            }
        }
        Ok(())
    }

    /// What a segment is called.
    pub fn name(&self, number: u64) -> String {
        segment_name(number, self.segment_bytes)
    }
}

/// The name of a segment on timeline 1, which a new primary is on.
pub fn segment_name(number: u64, segment_bytes: u64) -> String {
    let per_id = (1 << 32) / segment_bytes;
    format!("00000001{:08X}{:08X}", number / per_id, number % per_id)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    /// Two finished segments and a partial of 100 bytes, as on the primary.
    fn directories() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let (stored, pg_wal) = (home.path().join("stored"), home.path().join("pg_wal"));
        fs::create_dir(&stored).unwrap();
        fs::create_dir(&pg_wal).unwrap();
        for number in 1..4 {
            let content = vec![u8::try_from(number).unwrap(); 1 << 20];
            let name = segment_name(number, SEGMENT);
            fs::write(pg_wal.join(&name), &content).unwrap();
            let suffix = if number == 3 { ".partial" } else { "" };
            fs::write(stored.join(name + suffix), &content).unwrap();
        }
        (home, stored, pg_wal)
    }

    fn check(stored: &Path, pg_wal: &Path) -> Result<u64> {
        let stored = Stored {
            directory: stored,
            pg_wal,
            segment_bytes: SEGMENT,
        };
        stored.check(SEGMENT + 5, 3 * SEGMENT + 100)
    }

    fn flip(path: &Path, at: usize) {
        let mut content = fs::read(path).unwrap();
        content[at] ^= 1;
        fs::write(path, content).unwrap();
    }

    #[test]
    fn what_is_the_same_passes() {
        let (_home, stored, pg_wal) = directories();
        assert_eq!(check(&stored, &pg_wal).unwrap(), 2 * SEGMENT + 100);
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let (_home, stored, pg_wal) = directories();
        flip(&stored.join(segment_name(2, SEGMENT)), (1 << 20) - 1);
        assert!(
            check(&stored, &pg_wal)
                .unwrap_err()
                .to_string()
                .contains("differs")
        );
    }

    #[test]
    fn the_last_acknowledged_byte_counts_and_the_next_does_not() {
        let (_home, stored, pg_wal) = directories();
        let partial = stored.join(segment_name(3, SEGMENT) + ".partial");
        flip(&partial, 100);
        check(&stored, &pg_wal).unwrap();
        flip(&partial, 99);
        check(&stored, &pg_wal).unwrap_err();
    }

    #[test]
    fn a_missing_a_short_and_a_made_up_segment_are_found() {
        let (_home, stored, pg_wal) = directories();
        let second = stored.join(segment_name(2, SEGMENT));
        fs::rename(&second, stored.join("away")).unwrap();
        check(&stored, &pg_wal).unwrap_err();
        fs::write(&second, vec![2; 1000]).unwrap();
        check(&stored, &pg_wal).unwrap_err();
        fs::rename(stored.join("away"), &second).unwrap();
        check(&stored, &pg_wal).unwrap();
        fs::write(stored.join(segment_name(9, SEGMENT)), "").unwrap();
        check(&stored, &pg_wal).unwrap_err();
    }
}
