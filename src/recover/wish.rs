//! Another number of ranks, wished for by who runs the program.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How many ranks are wished for, as it stands in a file.
#[derive(Debug)]
pub(super) struct Wish {
    file: PathBuf,
    looked: Option<Instant>,
    least: usize,
    /// So many could not be had: they are not wished for again.
    unmet: Option<usize>,
    /// What was read last.
    told: String,
}

impl Wish {
    /// How often the file is looked at.
    const PAUSE: Duration = Duration::from_millis(20);
    /// More are held to be a slip.
    const MOST: usize = 10_000;

    pub(super) fn new(file: &Path, least: usize, unmet: Option<usize>) -> Self {
        Self { file: file.to_owned(), looked: None, least, unmet, told: String::new() }
    }

    /// Another number of ranks than there are, if it is wished for.
    pub(super) fn look(&mut self, ranks: usize) -> Option<usize> {
        if self.looked.is_some_and(|looked| looked.elapsed() < Self::PAUSE) {
            return None;
        }
        self.looked = Some(Instant::now());
        let told = fs::read_to_string(&self.file).ok()?; // there may be no wish
        let possible = self.least..=Self::MOST;
        let wish = told.trim().parse().ok().filter(|wish| possible.contains(wish));
        // It may be half written: it is looked at again.
        if wish.is_none() && !told.trim().is_empty() && told != self.told {
            let (file, least, most) = (self.file.display(), self.least, Self::MOST);
            let told = told.trim();
            log::warn!("--size-file {file}: {told:?} is no number of ranks, {least} to {most}");
        }
        self.told = told;
        if wish.is_some() && wish != self.unmet {
            self.unmet = None; // perhaps it can be had by the next time
        }
        wish.filter(|&wish| wish != ranks && Some(wish) != self.unmet)
    }
}
