//! A terminal that is drawn anew in place and is as it was afterwards: the alternate screen of
//! xterm's control sequences (ctlseqs), and ECMA-48.

use std::io::IsTerminal as _;

use crate::failure::Result;
use crate::print::sink;

/// The alternate screen, no cursor, no wrapping of lines that are too long.
const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE_SCREEN: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Whether standard output is a terminal that takes commands.
pub(crate) fn is_there() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and lines; 80 and 24 where the terminal does not say.
pub(crate) fn size() -> (usize, usize) {
    let (columns, lines) = terminal_size::terminal_size()
        .map_or((80, 24), |(width, height)| (usize::from(width.0), usize::from(height.0)));
    (columns.max(1), lines.max(2))
}

/// Left when dropped, however that comes; what was shown last then stays on the ordinary screen.
pub(crate) struct Screen {
    last: String,
}

impl Screen {
    pub(crate) fn enter() -> Screen {
        // A terminal that has gone says so at the first drawing.
        let _ = sink::print(ENTER_SCREEN);
        Screen { last: String::new() }
    }

    /// In one write, each line over the old one: nothing flickers.
    pub(crate) fn draw(&mut self, text: String) -> Result<()> {
        let lines: Vec<&str> = text.lines().collect();
        // The last without a newline: it would scroll a full screen.
        let drawn = sink::print(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")));
        self.last = text;
        drawn
    }

    /// Gives the terminal back meanwhile.
    pub(crate) fn away(&mut self, meanwhile: impl FnOnce()) {
        let _ = sink::print(LEAVE_SCREEN);
        meanwhile();
        let _ = sink::print(ENTER_SCREEN);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = sink::print(&format!("{LEAVE_SCREEN}{}", self.last));
    }
}
