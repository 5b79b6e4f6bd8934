//! The report of a comparison: a page for people, and tables for a README.
//!
//! Both are made from the data alone, so they can be made again from the file. Every claim is a median over
//! rounds with its ratio to the baseline and that ratio's interval ([`crate::statistics`]); what is worse is
//! said in the same words, at the same place and in the same size as what is better. The page is one file
//! that loads nothing.

mod chart;
mod figures;
mod headline;
mod markdown;
mod page;
mod prepared;
mod scale;
mod tables;
mod words;

use crate::results::Comparison;
use prepared::Prepared;

/// The report as one HTML page that needs nothing else.
pub fn html(comparison: &Comparison) -> String {
    page::page(&Prepared::of(comparison)).into_string()
}

/// The report's tables in Markdown, as a README includes them.
pub fn markdown(comparison: &Comparison) -> String {
    markdown::tables(&Prepared::of(comparison))
}
