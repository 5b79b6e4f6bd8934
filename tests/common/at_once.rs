//! Several cases of one test at the same time: mostly they wait, for a timeout, a server or a disk.

use std::panic::resume_unwind;
use std::thread;

/// Runs the cases, each in a thread of its own; gives what they came to, in their order. If one fails the test fails, once
/// all have ended.
pub fn at_once<C: Send, R: Send>(cases: impl IntoIterator<Item = C>, run: impl Fn(C) -> R + Sync) -> Vec<R> {
    let run = &run;
    thread::scope(|scope| {
        let started = cases.into_iter().map(|case| scope.spawn(move || run(case)));
        let started: Vec<_> = started.collect();
        let ended: Vec<_> = started.into_iter().map(|thread| thread.join()).collect();
        let results = ended
            .into_iter()
            .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)));
        results.collect()
    })
}
