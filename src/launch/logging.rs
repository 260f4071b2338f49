//! Log lines that say which rank and host wrote them, whole and in one write each.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{self, File},
    io::{self, IsTerminal, Write},
    path::PathBuf,
    str::FromStr,
    time::Instant,
};

use env_logger::{Builder, Env, Target, WriteStyle};

use super::{identity, print_line};

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a real terminal, unless `NO_COLOR` is set or a launcher started the program (its
    /// terminals are not real).
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    fn on_stderr(self, launched: bool) -> bool {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => !launched && !no_color && io::stderr().is_terminal(),
        }
    }
}

/// Which ranks write a log: `all`, or a list like `0,2-5`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RankSet(Option<Vec<(usize, usize)>>);

impl RankSet {
    /// Whether the rank belongs to the set.
    pub fn contains(&self, rank: usize) -> bool {
        self.0
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|&(first, last)| (first..=last).contains(&rank)))
    }
}

impl FromStr for RankSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(None));
        }
        let number = |text: &str| {
            text.trim()
                .parse::<usize>()
                .map_err(|_| format!("`{text}` is no rank; write `all` or `0,2-5`"))
        };
        let ranges = text.split(',').map(|part| match part.split_once('-') {
            Some((first, last)) => match (number(first)?, number(last)?) {
                (first, last) if first > last => {
                    Err(format!("`{part}` runs backwards; write `{last}-{first}`"))
                }
                range => Ok(range),
            },
            None => number(part).map(|rank| (rank, rank)),
        });
        ranges.collect::<Result<_, String>>().map(|ranges| Self(Some(ranges)))
    }
}

/// Sets the program's logger up, unless it has one of its own. `RUST_LOG` filters; without it,
/// warnings and errors show.
///
/// # Errors
/// If the directory for the logs cannot be made.
pub(super) fn start(
    color: Color,
    ranks: RankSet,
    directory: Option<PathBuf>,
    launched: bool,
) -> Result<(), String> {
    if let Some(directory) = &directory {
        fs::create_dir_all(directory).map_err(|error| {
            format!("cannot make the log directory {}: {error}", directory.display())
        })?;
    }
    let colored = directory.is_none() && color.on_stderr(launched);
    let style = if colored { WriteStyle::Always } else { WriteStyle::Never };
    let started = Instant::now();
    let logger = Builder::from_env(Env::default().default_filter_or("warn"))
        .write_style(style)
        .target(Target::Pipe(Box::new(Lines {
            directory,
            files: HashMap::new(),
            has_failed: false,
        })))
        .format(move |line, record| {
            let who = identity::with(|me| {
                let wanted = me.is_none_or(|me| ranks.contains(me.rank()));
                wanted.then(|| {
                    me.map_or_else(|| "-".to_owned(), |me| format!("r{:03} {}", me.rank(), me.host))
                })
            });
            let Some(who) = who else { return Ok(()) };
            let seconds = started.elapsed().as_secs_f64();
            let level = record.level();
            let style = line.default_level_style(level);
            let (target, text) = (record.target(), record.args());
            writeln!(line, "[{seconds:7.3} {who} {style}{level}{style:#} {target}] {text}")
        })
        .try_init();
    if logger.is_err() {
        log::debug!("the program has a logger of its own");
    }
    Ok(())
}

/// Where whole lines go: to standard error, or to a file per rank.
struct Lines {
    directory: Option<PathBuf>,
    files: HashMap<usize, File>,
    /// Whether a line was lost, which is told once.
    has_failed: bool,
}

impl Lines {
    /// The file of the rank that the calling thread works for.
    fn file(&mut self) -> io::Result<Option<&mut File>> {
        let Some(directory) = self.directory.as_ref() else { return Ok(None) };
        let who = identity::with(|me| Some((me?.rank(), me?.has_inherited())));
        let Some((rank, inherited)) = who else { return Ok(None) };
        match self.files.entry(rank) {
            Entry::Occupied(file) => Ok(Some(file.into_mut())),
            Entry::Vacant(place) => {
                let mut how = File::options();
                // What the rank's process has written before stays.
                how.create(true).append(inherited).write(true).truncate(!inherited);
                let file = how.open(directory.join(format!("rank{rank:03}.log")))?;
                Ok(Some(place.insert(file)))
            }
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = match self.file() {
            Ok(Some(file)) => file.write_all(line),
            Ok(None) => return io::stderr().lock().write_all(line).map(|()| line.len()),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // The logger tells nobody of it.
            if let Some(directory) = self.directory.as_ref().filter(|_| !self.has_failed) {
                let directory = directory.display();
                print_line(&format!(
                    "error: --log-dir: {directory}: {error}\n  what is lost there comes here"
                ));
            }
            self.has_failed = true;
            io::stderr().lock().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_sets_are_lists_and_ranges() {
        let set: RankSet = "0,2-4".parse().unwrap();
        let inside: Vec<usize> = (0..6).filter(|&rank| set.contains(rank)).collect();
        assert_eq!(inside, [0, 2, 3, 4]);
        assert!("all".parse::<RankSet>().unwrap().contains(99));
        assert!("1-x".parse::<RankSet>().is_err());
        assert!("".parse::<RankSet>().is_err());
        let backwards = "0,7-3".parse::<RankSet>().unwrap_err();
        assert_eq!(backwards, "`7-3` runs backwards; write `3-7`");
    }
}
