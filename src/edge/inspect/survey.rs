//! What is counted and listed while the records pass.

use super::Options;
use crate::core::lsn::Lsn;
use crate::core::timestamp::Timestamp;
use crate::core::wal::content::{self, Completion, Transaction};
use crate::core::wal::page::Version;
use crate::core::wal::record::{Record, ResourceManager};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

/// What the records of a resource manager amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many there are.
    pub records: u64,
    /// Their bytes without images of pages.
    pub bytes: u64,
    /// Bytes of the images of pages in them.
    pub image_bytes: u64,
}

impl Sums {
    /// Adds others.
    pub fn add(&mut self, other: Sums) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.image_bytes += other.image_bytes;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Survey {
    start: Option<Lsn>,
    end: Option<Lsn>,
    lists_commits: bool,
    lists_records: bool,
    keeps: bool,
    version: Option<Version>,
    /// By resource manager.
    pub sums: BTreeMap<ResourceManager, Sums>,
    /// Where the first record begins.
    pub first: Option<Lsn>,
    /// Where the last record begins.
    pub last: Option<Lsn>,
    /// Whether that switches to the next segment.
    pub ends_with_switch: bool,
    /// Committed transactions.
    pub commits: u64,
    /// When the first of them was.
    pub first_commit: Option<Timestamp>,
    /// When the last of them was.
    pub last_commit: Option<Timestamp>,
    /// What is listed, for JSON.
    pub listed_commits: Vec<Value>,
    /// What is listed, for JSON.
    pub listed_records: Vec<Value>,
    deaf: bool,
}

impl Survey {
    /// Nothing seen yet; the pages have this magic number.
    pub fn new(options: &Options, magic: Option<u16>) -> Survey {
        Survey {
            start: options.start,
            end: options.end,
            lists_commits: options.commits,
            lists_records: options.records,
            keeps: options.json,
            version: magic.and_then(Version::of_magic),
            sums: BTreeMap::new(),
            first: None,
            last: None,
            ends_with_switch: false,
            commits: 0,
            first_commit: None,
            last_commit: None,
            listed_commits: Vec::new(),
            listed_records: Vec::new(),
            deaf: false,
        }
    }

    /// Whether nobody reads what is printed any more.
    pub fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Counts a record, and lists it on `out` if that is asked for.
    pub fn see(&mut self, record: &Record, out: &mut impl Write) {
        let before = self.start.is_some_and(|start| record.start < start);
        if before || self.end.is_some_and(|end| record.start >= end) {
            return;
        }
        let Some(version) = self.version else { return };
        self.first.get_or_insert(record.start);
        self.last = Some(record.start);
        self.ends_with_switch = record.header.is_switch();
        let parts = content::parts(record, version).unwrap_or_default();
        let total = u64::from(record.header.total_length);
        let image_bytes = parts.image_bytes.min(total);
        self.sums.entry(record.header.manager).or_default().add(Sums {
            records: 1,
            bytes: total - image_bytes,
            image_bytes,
        });
        let transaction = content::transaction(record, version);
        if let Some(transaction) = transaction.filter(|transaction| transaction.completion.is_commit()) {
            self.commits += 1;
            self.first_commit.get_or_insert(transaction.time);
            self.last_commit = Some(transaction.time);
        }
        if self.lists_records {
            self.list_record(record, &parts, out);
        }
        if let Some(transaction) = transaction.filter(|_| self.lists_commits) {
            self.list_commit(record, &transaction, out);
        }
    }

    fn list_record(&mut self, record: &Record, parts: &content::Parts, out: &mut impl Write) {
        let header = record.header;
        if self.keeps {
            self.listed_records.push(json!({
                "lsn": record.start.to_string(),
                "length": header.total_length,
                "resource_manager": header.manager.to_string(),
                "transaction": header.transaction,
                "previous": header.previous.to_string(),
                "info": header.info,
                "blocks": parts.blocks,
                "image_bytes": parts.image_bytes,
            }));
            return;
        }
        let line = format!(
            "{:<12} {:>8} {:<17} xid {:<10} prev {:<12} info {:02X} blocks {} images {}",
            record.start.to_string(),
            header.total_length,
            header.manager,
            header.transaction,
            header.previous.to_string(),
            header.info,
            parts.blocks,
            parts.image_bytes
        );
        self.say(&line, out);
    }

    fn list_commit(&mut self, record: &Record, transaction: &Transaction, out: &mut impl Write) {
        let what = name(transaction.completion);
        if self.keeps {
            self.listed_commits.push(json!({
                "lsn": record.start.to_string(),
                "end": record.end.to_string(),
                "transaction": transaction.transaction,
                "what": what,
                "time": transaction.time.to_string(),
                "time_us_since_2000": transaction.time.0,
                "subtransactions": transaction.subtransactions,
            }));
            return;
        }
        let mut line = format!(
            "{:<12} {} xid {:<10} {what}",
            record.start.to_string(),
            transaction.time,
            transaction.transaction
        );
        if transaction.subtransactions > 0 {
            line += &format!(", subtransactions: {}", transaction.subtransactions);
        }
        self.say(&line, out);
    }

    fn say(&mut self, line: &str, out: &mut impl Write) {
        // What is written last tells the error, if it is to be told.
        self.deaf = self.deaf || writeln!(out, "{line}").is_err();
    }
}

/// As SQL calls it.
fn name(completion: Completion) -> &'static str {
    match completion {
        Completion::Commit => "COMMIT",
        Completion::CommitPrepared => "COMMIT PREPARED",
        Completion::Abort => "ROLLBACK",
        Completion::AbortPrepared => "ROLLBACK PREPARED",
    }
}
