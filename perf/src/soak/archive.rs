//! What a receiver stores, under the eyes of an archiver: each finished segment is compared with the primary's, copied
//! away if it is needed for a restore, and removed, so that space stays bounded.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::stored::Stored;

/// Finished segments that stay in the directory, for the receiver to find where to go on.
const KEPT: u64 = 2;

/// A receiver's directory, and how far it was compared.
pub struct Archive {
    directory: PathBuf,
    pg_wal: PathBuf,
    segment_bytes: u64,
    /// Where finished segments are copied to.
    copies: Option<PathBuf>,
    /// The first segment that was not yet compared as a finished one.
    next: u64,
    /// The first one that is still in the directory.
    oldest: u64,
    /// Finished segments that were the same.
    pub segments: u64,
    /// The most files that were in the directory at once.
    pub most_files: u64,
}

impl Archive {
    /// A directory into which WAL is received from `first` on.
    pub fn new(
        directory: &Path,
        pg_wal: &Path,
        segment_bytes: u64,
        first: u64,
        copies: Option<PathBuf>,
    ) -> Archive {
        let number = first / segment_bytes;
        Archive {
            directory: directory.to_owned(),
            pg_wal: pg_wal.to_owned(),
            segment_bytes,
            copies,
            next: number,
            oldest: number,
            segments: 0,
            most_files: 0,
        }
    }

    /// The primary's WAL before this is not needed any more.
    pub fn compared(&self) -> u64 {
        self.next * self.segment_bytes
    }

    /// Finished segments are compared and moved away; what is there must hold everything before `acknowledged`.
    pub fn look(&mut self, acknowledged: u64) -> Result<()> {
        self.take_finished()?;
        self.check(acknowledged)?;
        self.remove_old()
    }

    /// The WAL before `acknowledged` must be there, as the primary has it.
    pub fn check(&self, acknowledged: u64) -> Result<()> {
        if acknowledged <= self.compared() {
            return Ok(());
        }
        let stored = self.stored();
        // A partial one may be finished between two looks at it.
        let again = Instant::now() + Duration::from_secs(2);
        loop {
            match stored.check_bytes(self.compared(), acknowledged) {
                Err(error) if is_missing(&error) && Instant::now() < again => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                checked => {
                    return checked
                        .map(drop)
                        .with_context(|| format!("WAL was acknowledged up to {acknowledged:X}"));
                }
            }
        }
    }

    /// Copies what is not finished, too, as if it were, to `target`; for the time when nothing is received any more.
    pub fn copy_rest(&self, target: &Path) -> Result<()> {
        let number = self.next;
        let name = self.stored().name(number);
        let partial = self.directory.join(format!("{name}.partial"));
        if partial.exists() {
            fs::copy(&partial, target.join(name)).context("copy the last segment")?;
        }
        Ok(())
    }

    fn take_finished(&mut self) -> Result<()> {
        let files: Vec<String> = fs::read_dir(&self.directory)
            .with_context(|| format!("list {}", self.directory.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        self.most_files = self.most_files.max(files.len() as u64);
        let name = |number| self.stored().name(number);
        let mut number = self.next;
        while files.contains(&name(number)) {
            number += 1;
        }
        let last = files.iter().filter(|file| file.len() == 24).max();
        if let Some(last) = last.filter(|last| **last > name(number)) {
            bail!("wrong: {last} is finished, and {} is not", name(number));
        }
        let (from, to) = (self.next * self.segment_bytes, number * self.segment_bytes);
        self.stored().check_bytes(from, to)?;
        if let Some(copies) = &self.copies {
            for number in self.next..number {
                fs::copy(self.directory.join(name(number)), copies.join(name(number)))
                    .with_context(|| format!("copy {}", name(number)))?;
            }
        }
        self.segments += number - self.next;
        self.next = number;
        Ok(())
    }

    fn remove_old(&mut self) -> Result<()> {
        while self.oldest + KEPT < self.next {
            let path = self.directory.join(self.stored().name(self.oldest));
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            self.oldest += 1;
        }
        Ok(())
    }

    fn stored(&self) -> Stored<'_> {
        Stored {
            directory: &self.directory,
            pg_wal: &self.pg_wal,
            segment_bytes: self.segment_bytes,
        }
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let kind = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    error.downcast_ref::<std::io::Error>().is_some_and(kind)
        || error.chain().any(|cause| cause.downcast_ref().is_some_and(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    struct Trial {
        home: tempfile::TempDir,
        archive: Archive,
    }

    impl Trial {
        /// The primary has segments 3 to 9; nothing is received.
        fn new() -> Trial {
            let home = tempfile::tempdir().unwrap();
            let path = |name: &str| home.path().join(name);
            for name in ["stored", "pg_wal", "copies"] {
                fs::create_dir(path(name)).unwrap();
            }
            let copies = Some(path("copies"));
            let archive = Archive::new(&path("stored"), &path("pg_wal"), SEGMENT, 3 * SEGMENT, copies);
            for number in 3..10_u8 {
                let name = archive.stored().name(number.into());
                fs::write(path("pg_wal").join(name), vec![number; 1 << 20]).unwrap();
            }
            Trial { home, archive }
        }

        fn receive(&self, number: u8, suffix: &str) -> PathBuf {
            let name = self.archive.stored().name(number.into()) + suffix;
            let path = self.home.path().join("stored").join(name);
            fs::write(&path, vec![number; 1 << 20]).unwrap();
            path
        }

        fn count(&self, directory: &str) -> usize {
            fs::read_dir(self.home.path().join(directory)).unwrap().count()
        }

        fn refusal(&mut self, acknowledged: u64) -> String {
            format!("{:#}", self.archive.look(acknowledged).unwrap_err())
        }
    }

    #[test]
    fn finished_segments_are_compared_copied_and_removed() {
        let mut trial = Trial::new();
        for number in 3..8 {
            trial.receive(number, "");
        }
        trial.receive(8, ".partial");
        trial.archive.look(8 * SEGMENT + 100).unwrap();
        assert_eq!(trial.archive.compared(), 8 * SEGMENT);
        assert_eq!((trial.archive.segments, trial.archive.most_files), (5, 6));
        assert_eq!((trial.count("stored"), trial.count("copies")), (3, 5));
        trial
            .archive
            .copy_rest(&trial.home.path().join("copies"))
            .unwrap();
        assert_eq!(trial.count("copies"), 6);
    }

    #[test]
    fn a_wrong_byte_is_found_in_finished_segments_and_before_the_acknowledged_end() {
        let mut trial = Trial::new();
        let spoil = |path: &Path, at: usize| {
            let mut content = fs::read(path).unwrap();
            content[at] ^= 1;
            fs::write(path, content).unwrap();
        };
        let partial = trial.receive(3, ".partial");
        spoil(&partial, 100);
        trial.archive.look(3 * SEGMENT + 100).unwrap();
        assert!(trial.refusal(3 * SEGMENT + 101).contains("differs"));
        fs::remove_file(partial).unwrap();
        spoil(&trial.receive(3, ""), (1 << 20) - 1);
        assert!(trial.refusal(0).contains("differs"));
    }

    #[test]
    fn a_gap_and_acknowledged_bytes_that_are_not_there_are_found() {
        let mut trial = Trial::new();
        assert!(trial.refusal(3 * SEGMENT + 1).contains("No such file"));
        trial.receive(4, "");
        assert!(trial.refusal(0).contains("is finished, and"));
    }
}
