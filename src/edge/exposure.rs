//! Taking passwords out of what others can see of this process.
//!
//! The command line is shown by `ps` to everybody, the environment to the same user, and both go into
//! core dumps. The kernel reads them from this process's own memory, where they are overwritten:
//! through `/proc/self/mem`, so that nothing here is `unsafe`.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What a hidden connection string consists of.
const COVER: u8 = b'x';

/// The variable that may hold a password; once hidden it is empty, which says nothing.
const VARIABLE: &[u8] = b"PGPASSWORD=";

/// Overwrites each argument that ends with `text`, from there on.
///
/// Fails where `/proc` is missing or does not let us.
pub fn hide_argument(text: &str) -> io::Result<()> {
    let area = Area::of_this_process()?.arguments;
    cover(&area, COVER, |argument| {
        (!text.is_empty() && argument.ends_with(text.as_bytes())).then(|| argument.len() - text.len())
    })
}

/// Overwrites the value of `PGPASSWORD` with nothing.
///
/// Fails where `/proc` is missing or does not let us.
pub fn hide_variable() -> io::Result<()> {
    let area = Area::of_this_process()?.environment;
    cover(&area, 0, |variable| {
        variable.starts_with(VARIABLE).then_some(VARIABLE.len())
    })
}

/// Overwrites texts that end with a zero byte, each from where `secret` says that its secret begins.
fn cover(area: &Range<u64>, cover: u8, secret: impl Fn(&[u8]) -> Option<usize>) -> io::Result<()> {
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    let mut texts = vec![0; (area.end - area.start) as usize];
    memory.read_exact_at(&mut texts, area.start)?;
    let mut at = area.start;
    for text in texts.split(|byte| *byte == 0) {
        if let Some(begin) = secret(text) {
            memory.write_all_at(&vec![cover; text.len() - begin], at + begin as u64)?;
        }
        at += text.len() as u64 + 1;
    }
    Ok(())
}

/// Where the kernel has put them; addresses.
struct Area {
    arguments: Range<u64>,
    environment: Range<u64>,
}

impl Area {
    fn of_this_process() -> io::Result<Area> {
        Area::parse(&fs::read_to_string("/proc/self/stat")?)
            .ok_or_else(|| io::Error::other("/proc/self/stat is not understood"))
    }

    /// Fields 48 to 51 of proc(5); the second one may hold blanks and parentheses.
    fn parse(stat: &str) -> Option<Area> {
        let (_, from_third) = stat.rsplit_once(") ")?;
        let mut addresses = from_third.split_ascii_whitespace().skip(45).map(str::parse);
        let mut next = || addresses.next()?.ok();
        let (arguments, environment) = (next()?..next()?, next()?..next()?);
        let is_sane = |area: &Range<u64>| 0 < area.start && area.start <= area.end;
        (is_sane(&arguments) && is_sane(&environment)).then_some(Area {
            arguments,
            environment,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_counted_behind_the_programs_name() {
        let fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("1 (a) b) S {}", fields.join(" "));
        let area = Area::parse(&stat).unwrap();
        assert_eq!((area.arguments, area.environment), (48..49, 50..51));
        assert!(Area::parse("1 (a) S 4 5").is_none());
    }

    #[test]
    fn a_hidden_part_is_overwritten_and_nothing_else() {
        let mut memory = *b"one\0-dtwo\0three\0";
        let start = memory.as_mut_ptr().addr() as u64;
        let area = start..start + memory.len() as u64;
        cover(&area, COVER, |text| {
            text.ends_with(b"two").then(|| text.len() - 3)
        })
        .unwrap();
        assert_eq!(std::hint::black_box(&mut memory), b"one\0-dxxx\0three\0");
    }
}
