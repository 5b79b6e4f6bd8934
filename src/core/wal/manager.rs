//! The names of resource managers (PostgreSQL `src/include/access/rmgrlist.h`).

use std::fmt;

use super::record::ResourceManager;

const NAMES: [&str; 23] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
    "XLOG2",
];

/// As `pg_waldump` names it; extensions' managers are `custom` and their number.
impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.pad(name),
            None => f.pad(&format!("custom{:03}", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_name() {
        let name = |number| ResourceManager(number).to_string();
        assert_eq!(
            [0, 1, 21, 22].map(name),
            ["XLOG", "Transaction", "LogicalMessage", "XLOG2"]
        );
        assert_eq!([128, 255].map(name), ["custom128", "custom255"]);
    }
}
