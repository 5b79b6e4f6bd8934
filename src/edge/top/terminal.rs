//! The terminal: where frames are drawn in place, and given back as it was.

use std::io::{self, IsTerminal};

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use super::frame::Size;
use super::line::Line;

/// The room on a terminal that does not tell, and of a frame that is printed.
pub const USUAL: Size = Size {
    columns: 80,
    rows: 24,
};

/// The alternate screen, no cursor, no wrapping of lines that turn out wider than they were counted.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";

/// All of it back.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Standard output, if it is a terminal, and the keys of standard input, if that is one, too. Dropping it gives the
/// screen back.
#[derive(Debug)]
pub struct Terminal {
    colours: bool,
    /// How the keyboard was.
    keyboard: Option<Termios>,
}

impl Terminal {
    /// Takes the screen. `None` where there is none that could be redrawn.
    pub fn open() -> io::Result<Option<Terminal>> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        if !io::stdout().is_terminal() || is_dumb {
            return Ok(None);
        }
        let keyboard = termios::tcgetattr(io::stdin()).ok();
        let terminal = Terminal {
            colours: !is_set("NO_COLOR"),
            keyboard,
        };
        terminal.enter()?;
        Ok(Some(terminal))
    }

    /// Whether keys can be read.
    pub fn has_keys(&self) -> bool {
        self.keyboard.is_some()
    }

    /// Takes the screen, and keys as they are pressed; those that send signals still do.
    pub fn enter(&self) -> io::Result<()> {
        if let Some(found) = &self.keyboard {
            let mut wanted = found.clone();
            wanted.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            // A read waits for one key.
            wanted.special_codes[SpecialCodeIndex::VMIN] = 1;
            wanted.special_codes[SpecialCodeIndex::VTIME] = 0;
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &wanted)?;
        }
        write(ENTER)
    }

    /// Gives both back.
    pub fn leave(&self) -> io::Result<()> {
        if let Some(found) = &self.keyboard {
            termios::tcsetattr(io::stdin(), OptionalActions::Now, found)?;
        }
        write(LEAVE)
    }

    /// The room there is now.
    pub fn size(&self) -> Size {
        match termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size {
                columns: size.ws_col.into(),
                rows: size.ws_row.into(),
            },
            _ => USUAL,
        }
    }

    /// Draws over the last frame.
    pub fn draw(&self, lines: &[Line]) -> io::Result<()> {
        write(&redrawn(lines, self.size().columns, self.colours))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = self.leave();
    }
}

/// The frame as one write, so that no half of it is ever seen: each line replaces the old one, and nothing is cleared
/// that is drawn again.
fn redrawn(lines: &[Line], columns: usize, colours: bool) -> String {
    let shown = lines.iter().map(|line| match colours {
        true => line.coloured(columns),
        false => line.cut(columns),
    });
    let rows: Vec<String> = shown.map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[H{}\x1b[J", rows.join("\r\n"))
}

/// Prints a frame where nothing can be redrawn, behind an empty line if it `follows` another one.
pub fn print(lines: &[Line], follows: bool) -> io::Result<()> {
    let between = if follows { "\n" } else { "" };
    let text: String = lines.iter().map(|line| line.plain() + "\n").collect();
    write(&format!("{between}{text}"))
}

/// Past the standard library's buffer, which would cut a frame in two at its last line.
fn write(text: &str) -> io::Result<()> {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(io::stdout(), left))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => left = &left[written..],
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::top::line::Style;

    #[test]
    fn a_frame_is_drawn_over_the_last_one() {
        let lines = [Line::of(Style::Good, "ab"), Line::of(Style::Plain, "cd  ")];
        assert_eq!(
            redrawn(&lines, 3, true),
            "\x1b[H\x1b[32mab\x1b[0m\x1b[K\r\ncd \x1b[K\x1b[J"
        );
        assert_eq!(redrawn(&lines, 1, false), "\x1b[Ha\x1b[K\r\nc\x1b[K\x1b[J");
    }
}
