//! Where streaming starts: a pure decision from facts about the directory.
