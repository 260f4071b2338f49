//! The programs that come with the library, as `examples/README.md` tells of them.

use std::{io::Write, process::ExitCode};

use crate::output::Reader;

const GALLERY: &str = include_str!("../../../../examples/README.md");

/// A line of the gallery's table.
struct Program {
    name: &'static str,
    shows: String,
    command: &'static str,
}

fn programs() -> impl Iterator<Item = Program> {
    GALLERY.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| [")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, shows, command] = &*cells else { return None };
        let (name, _) = name.split_once("](")?;
        Some(Program { name, shows: plain(shows), command: command.trim_matches('`') })
    })
}

/// Text without Markdown's signs for code and links.
fn plain(text: &str) -> String {
    let text = text.replace('`', "");
    let mut pieces = text.split("](");
    let mut plain = pieces.next().unwrap_or_default().replace('[', "");
    for piece in pieces {
        let (_, behind) = piece.split_once(')').unwrap_or_default();
        plain.push_str(&behind.replace('[', ""));
    }
    plain
}

pub(crate) fn list() -> ExitCode {
    let mut text = String::from("Programs in the source tree; each checks its own result.\n\n");
    for Program { name, shows, command } in programs() {
        text.extend([name, ": ", &shows, "\n    ", command, "\n"]);
    }
    text.push_str(
        "\nAll run on any number of ranks (-- -n 4) and say more with -- --help. Under MPI:\n    \
         cargo build --release --examples --features mpi && mpirun -n 4 target/release/examples/hello\n",
    );
    match Reader.write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: cannot print: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_gallery_is_a_program() {
        let commands = GALLERY.matches("| `cargo run ").count();
        assert_eq!((programs().count(), commands > 0), (commands, true));
        for Program { name, shows, command } in programs() {
            assert!(command.contains(&format!("--example {name}")), "{name}: {command}");
            assert!(!shows.is_empty() && !shows.contains(['`', '[', ']', '|']), "{name}: {shows}");
        }
    }

    #[test]
    fn links_and_code_are_plain() {
        assert_eq!(plain("a [b](c.png), `d` and [e](f)"), "a b, d and e");
        assert_eq!(plain("nothing of it"), "nothing of it");
    }
}
