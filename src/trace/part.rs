//! The part of a rank, read: from its file, or from the bytes of one that another rank has sent.

use std::{fs, io, path::Path, time::SystemTime};

use super::tape::{CallRecord, CpuRecord, HEAD_BYTES, MAGIC, PartHead};

/// What a rank has noted.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) head: PartHead,
    pub(super) words: Vec<String>,
    /// In the order in which they were noted.
    pub(super) calls: Vec<CallRecord>,
    pub(super) cpu: Vec<CpuRecord>,
    /// How many older ones there were.
    pub(super) forgotten: u64,
}

impl Part {
    /// Reads the bytes of a part.
    ///
    /// # Errors
    /// In words, if they are none; nothing that they say of themselves is believed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "it is damaged".to_owned();
        let head = bytes.get(..size_of::<PartHead>()).ok_or("it is too short for a trace")?;
        let head: PartHead = bytemuck::pod_read_unaligned(head);
        if head.magic != MAGIC {
            return Err("it is no part of a trace".to_owned());
        }
        let mut rest = bytes.get(HEAD_BYTES..).ok_or_else(damaged)?;
        let mut take = |room: u64, size: usize| {
            let bytes = usize::try_from(room).ok()?.checked_mul(size)?;
            let (taken, left) = rest.split_at_checked(bytes)?;
            rest = left;
            Some(taken)
        };
        let words = take(head.word_room, 1).ok_or_else(damaged)?;
        let calls = take(head.call_room, size_of::<CallRecord>()).ok_or_else(damaged)?;
        let cpu = take(head.cpu_room, size_of::<CpuRecord>()).ok_or_else(damaged)?;
        let mut words = words.get(..head.word_bytes as usize).ok_or_else(damaged)?;
        let mut texts = Vec::new();
        while let Some((length, left)) = words.split_at_checked(2) {
            let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
            let (text, left) = left.split_at_checked(length).ok_or_else(damaged)?;
            texts.push(String::from_utf8_lossy(text).into_owned());
            words = left;
        }
        let running = head.ended_ns == 0;
        let (calls, forgotten) = in_order(calls, head.calls, head.call_room, running);
        let (cpu, _) = in_order(cpu, head.cpu_times, head.cpu_room, running);
        Ok(Self { head, words: texts, calls, cpu, forgotten })
    }

    /// The number of the job that it is of.
    pub(crate) fn job(&self) -> u64 {
        self.head.job
    }

    /// The part in as few bytes as it needs: what is sent to the rank that merges them.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut words = Vec::new();
        for word in &self.words {
            words.extend((word.len() as u16).to_ne_bytes());
            words.extend(word.as_bytes());
        }
        let head = PartHead {
            call_room: self.calls.len() as u64,
            cpu_room: self.cpu.len() as u64,
            word_room: words.len() as u64,
            word_bytes: words.len() as u64,
            cpu_times: self.cpu.len() as u64,
            ..self.head
        };
        let mut bytes = bytemuck::bytes_of(&head).to_vec();
        bytes.resize(HEAD_BYTES, 0);
        bytes.extend(words);
        // As in a ring that has gone round: the first of them need not be the oldest.
        let mut calls = self.calls.clone();
        let turn = self.forgotten % (calls.len() as u64).max(1);
        calls.rotate_right(turn as usize);
        bytes.extend_from_slice(bytemuck::cast_slice(&calls));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.cpu));
        bytes
    }

    pub(super) fn word(&self, number: u32) -> &str {
        self.words.get(number as usize).map_or("", String::as_str)
    }
}

/// The records of a ring in the order in which they were noted, and how many older ones there were.
/// If more may come, the oldest may be the one that was being overwritten.
fn in_order<T: bytemuck::AnyBitPattern>(
    ring: &[u8],
    count: u64,
    room: u64,
    running: bool,
) -> (Vec<T>, u64) {
    let kept = if count < room { count } else { room - u64::from(running).min(room) };
    let record = |number: u64| {
        let at = (number % room.max(1)) as usize * size_of::<T>();
        ring.get(at..at + size_of::<T>()).map(bytemuck::pod_read_unaligned)
    };
    ((count - kept..count).filter_map(record).collect(), count - kept)
}

/// Reads the parts that the last job has left in a directory; beside them, which could not be read,
/// and why.
///
/// # Errors
/// In words, if there is none that can be read.
pub(super) fn read_all(directory: &Path) -> Result<(Vec<Part>, Vec<String>), String> {
    let told = |error: io::Error| format!("{}: {error}", directory.display());
    let (mut parts, mut unread): (Vec<(SystemTime, Part)>, _) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.extension().is_some_and(|extension| extension == "part") {
            match read(&path) {
                Ok(part) => parts.push(part),
                Err(what) => unread.push(format!("{}: {what}", path.display())),
            }
        }
    }
    unread.sort();
    let last = parts.iter().max_by_key(|(changed, _)| *changed).map(|(_, part)| part.head.job);
    let Some(job) = last else {
        let none = || format!("{}: no part of a trace is in it", directory.display());
        return Err(unread.into_iter().next().unwrap_or_else(none));
    };
    let parts = parts.into_iter().map(|(_, part)| part).filter(|part| part.head.job == job);
    Ok((parts.collect(), unread))
}

/// A part, and when it was changed.
fn read(path: &Path) -> Result<(SystemTime, Part), String> {
    let told = |error: io::Error| error.to_string();
    let part = Part::parse(&fs::read(path).map_err(told)?)?;
    Ok((fs::metadata(path).and_then(|about| about.modified()).map_err(told)?, part))
}
