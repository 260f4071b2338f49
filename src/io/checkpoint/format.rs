//! The bytes of a checkpoint: its index, and the part of each rank, in a file or in memory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use crc32fast::Hasher;
use serde::{Deserialize, Serialize};

use crate::io::FileError;

/// What the files begin with; the last byte is the number of the format.
const INDEX: &[u8; 8] = b"spmd ix\x01";
const PART: &[u8; 8] = b"spmd pt\x01";

/// So many bytes have a sum of their own.
const PIECE: usize = 1 << 20;

/// So many are written and summed at a time: they are in the cache still when they are summed.
const BLOCK: usize = 1 << 16;

/// The bytes of a sum.
const SUM: usize = 4;

/// What a part begins with: [`PART`], which checkpoint it is of, and which part of it.
const HEAD: usize = 24;

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    /// A number that no other checkpoint has.
    pub(super) id: u64,
    /// Whether the bytes of numbers begin with the lowest.
    pub(super) little_endian: bool,
    /// How many bytes the part of each rank has.
    pub(super) parts: Vec<u64>,
    pub(super) items: Vec<Described>,
}

/// A named part of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) what: What,
}

/// What a part of the state is, and what is in the index of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum What {
    /// An array; its cells are in the parts.
    Array {
        element: ElementType,
        shape: Vec<u64>,
        /// Start and shape of the block in each part.
        blocks: Vec<(Vec<u64>, Vec<u64>)>,
    },
    /// A value that is the same on all ranks.
    Common(Vec<u8>),
    /// A value that must be what it was.
    Constant(Vec<u8>),
    /// Items of a distributed vector, in the parts.
    Items(ElementType),
    /// A value of each rank, in its part.
    PerRank,
}

/// The type of cells or items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ElementType {
    pub(super) name: String,
    bytes: u64,
}

impl ElementType {
    pub(super) fn of<T>() -> Self {
        Self { name: std::any::type_name::<T>().to_owned(), bytes: size_of::<T>() as u64 }
    }
}

impl What {
    /// What users call it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Array { .. } => "an array",
            Self::Common(_) => "a value of all ranks",
            Self::Constant(_) => "a constant",
            Self::Items(_) => "a distributed vector",
            Self::PerRank => "a value of each rank",
        }
    }
}

fn damaged(path: &Path, what: impl Into<String>) -> FileError {
    FileError::Damaged { path: path.to_owned(), what: what.into() }
}

impl Index {
    pub(super) fn write(&self, path: &Path) -> Result<(), FileError> {
        let words = postcard::to_stdvec(self).map_err(FileError::format(path, "write"))?;
        let bytes = [&INDEX[..], &words, &crc32fast::hash(&words).to_le_bytes()].concat();
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        write().map_err(FileError::system(path, "write"))
    }

    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = fs::read(path).map_err(FileError::system(path, "read"))?;
        let words = bytes.strip_prefix(INDEX).and_then(|rest| rest.split_last_chunk::<SUM>());
        let Some((words, sum)) = words else {
            return Err(damaged(path, "it is no index of a checkpoint of this version of spmd"));
        };
        if crc32fast::hash(words).to_le_bytes() != *sum {
            return Err(damaged(path, "its bytes are not those that were written"));
        }
        let index: Self = postcard::from_bytes(words)
            .map_err(|_| damaged(path, "it is no index of a checkpoint of this version of spmd"))?;
        if index.little_endian != cfg!(target_endian = "little") {
            return Err(damaged(path, "a machine with another order of bytes has written it"));
        }
        Ok(index)
    }
}

/// Which piece of a checkpoint is summed.
#[derive(Clone, Copy)]
struct Place {
    id: u64,
    part: u64,
    /// The number of the piece in the part.
    piece: u64,
}

impl Place {
    /// The sum of the piece, of which nothing has been seen yet.
    fn sum(self) -> Hasher {
        let mut sum = Hasher::new();
        for word in [self.id, self.part, self.piece] {
            sum.update(&word.to_le_bytes());
        }
        sum
    }
}

/// How many bytes of a part a record of so many takes.
pub(super) fn record_size(bytes: u64) -> u64 {
    let pieces = bytes.div_ceil(PIECE as u64) + 1; // its length is a piece
    bytes.saturating_add(8).saturating_add(pieces * SUM as u64)
}

/// How many bytes a part takes before its records.
pub(super) fn head_size() -> u64 {
    HEAD as u64
}

/// Where a part is written to.
enum Sink {
    File(BufWriter<File>),
    Memory(Vec<u8>),
}

impl Sink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Memory(memory) => {
                memory.try_reserve(bytes.len())?; // there is room already
                memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// A part that is being written.
pub(super) struct PartWriter {
    path: PathBuf,
    sink: Sink,
    place: Place,
    /// Of what there is of the piece, and how many bytes that are.
    sum: Hasher,
    summed: usize,
    written: u64,
}

impl PartWriter {
    pub(super) fn create(path: PathBuf, id: u64, part: usize) -> Result<Self, FileError> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(FileError::system(&path, "write"))?;
        Self::begin(path, Sink::File(BufWriter::new(file)), id, part)
    }

    /// A part in memory, of so many bytes: `room` is what it overwrites.
    pub(super) fn in_memory(
        mut room: Vec<u8>,
        bytes: u64,
        id: u64,
        part: usize,
    ) -> Result<Self, FileError> {
        room.clear();
        reserve(&in_memory(), bytes, &mut room)?;
        Self::begin(in_memory(), Sink::Memory(room), id, part)
    }

    fn begin(path: PathBuf, mut sink: Sink, id: u64, part: usize) -> Result<Self, FileError> {
        let place = Place { id, part: part as u64, piece: 0 };
        let head = [&PART[..], &id.to_le_bytes(), &place.part.to_le_bytes()].concat();
        sink.write_all(&head).map_err(FileError::system(&path, "write"))?;
        Ok(Self { path, sink, place, sum: place.sum(), summed: 0, written: HEAD as u64 })
    }

    /// Writes a record: its length, and then so many bytes, which `fill` hands over.
    pub(super) fn record(
        &mut self,
        bytes: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let write = || {
            self.put(&bytes.to_le_bytes())?;
            self.close_piece()?;
            fill(&mut |bytes| self.put(bytes))?;
            self.close_piece()
        };
        write().map_err(FileError::system(&self.path.clone(), "write"))
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK.min(PIECE - self.summed);
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.sink.write_all(now)?;
            self.sum.update(now);
            self.summed += now.len();
            if self.summed == PIECE {
                self.close_piece()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn close_piece(&mut self) -> io::Result<()> {
        if self.summed > 0 {
            self.place.piece += 1;
            let sum = std::mem::replace(&mut self.sum, self.place.sum());
            self.sink.write_all(&sum.finalize().to_le_bytes())?;
            self.written += (self.summed + SUM) as u64;
            self.summed = 0;
        }
        Ok(())
    }

    /// Sees to it that the part is on the disk; how many bytes it has.
    pub(super) fn finish(self) -> Result<u64, FileError> {
        let Self { path, sink, written, .. } = self;
        if let Sink::File(file) = sink {
            let sync = || file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all();
            sync().map_err(FileError::system(&path, "write"))?;
        }
        Ok(written)
    }

    /// The bytes of a part in memory.
    pub(super) fn into_memory(self) -> Vec<u8> {
        match self.sink {
            Sink::Memory(memory) => memory,
            Sink::File(_) => Vec::new(),
        }
    }
}

/// Memory for a part of so many bytes, `room` if that suffices.
pub(super) fn memory_for(bytes: u64, room: Vec<u8>) -> Result<Vec<u8>, FileError> {
    room_for(&in_memory(), bytes, room)
}

fn room_for(path: &Path, bytes: u64, mut room: Vec<u8>) -> Result<Vec<u8>, FileError> {
    let length = reserve(path, bytes, &mut room)?;
    room.resize(length, 0);
    Ok(room)
}

/// Sees to it that there is room for so many bytes in all.
fn reserve(path: &Path, bytes: u64, room: &mut Vec<u8>) -> Result<usize, FileError> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    match room.try_reserve_exact(length.saturating_sub(room.len())) {
        Ok(()) => Ok(length),
        Err(_) => Err(FileError::TooLarge { path: path.to_owned(), shape: vec![length] }),
    }
}

/// What errors call the place of a part in memory.
fn in_memory() -> PathBuf {
    PathBuf::from("the memory of ranks")
}

/// A part that is being read.
pub(super) struct PartReader<'a> {
    path: PathBuf,
    bytes: Box<dyn Read + 'a>,
    place: Place,
    /// How many bytes there are still.
    left: u64,
}

impl<'a> PartReader<'a> {
    /// Opens a part that has so many bytes.
    pub(super) fn open(path: PathBuf, id: u64, part: usize, bytes: u64) -> Result<Self, FileError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (there, file) = opened.map_err(FileError::system(&path, "read"))?;
        if there != bytes || there < HEAD as u64 {
            return Err(damaged(&path, format!("it has {there} bytes, and should have {bytes}")));
        }
        Self::begin(path, Box::new(BufReader::new(file)), id, part, bytes - HEAD as u64)
    }

    /// A part in memory, which should have so many bytes.
    pub(super) fn of_memory(
        memory: &'a [u8],
        id: u64,
        part: usize,
        bytes: u64,
    ) -> Result<Self, FileError> {
        let (path, there) = (in_memory(), memory.len() as u64);
        if there != bytes || there < HEAD as u64 {
            return Err(damaged(&path, format!("it has {there} bytes, and should have {bytes}")));
        }
        Self::begin(path, Box::new(memory), id, part, bytes - HEAD as u64)
    }

    /// Reads the head; so many bytes follow.
    fn begin(
        path: PathBuf,
        mut bytes: Box<dyn Read + 'a>,
        id: u64,
        part: usize,
        left: u64,
    ) -> Result<Self, FileError> {
        let mut head = [0; HEAD];
        bytes.read_exact(&mut head).map_err(FileError::system(&path, "read"))?;
        let place = Place { id, part: part as u64, piece: 0 };
        if head[..] != [&PART[..], &id.to_le_bytes(), &place.part.to_le_bytes()].concat() {
            return Err(damaged(&path, "it is no part of this checkpoint"));
        }
        Ok(Self { path, bytes, place, left })
    }

    /// How many bytes the record has that comes next: no more than there are.
    pub(super) fn next_len(&mut self) -> Result<u64, FileError> {
        let mut bytes = [0; 8];
        self.take(&mut bytes)?;
        let bytes = u64::from_le_bytes(bytes);
        if bytes > self.left {
            return Err(damaged(&self.path, "it ends within a record"));
        }
        Ok(bytes)
    }

    /// Reads the record that comes next, as long as [`next_len`](Self::next_len) has said.
    pub(super) fn rest_into(&mut self, into: &mut [u8]) -> Result<(), FileError> {
        into.chunks_mut(PIECE).try_for_each(|piece| self.take(piece))
    }

    /// Reads the record that comes next, of `bytes` as [`next_len`](Self::next_len) has said.
    pub(super) fn rest_of_record(&mut self, bytes: u64) -> Result<Vec<u8>, FileError> {
        let mut into = room_for(&self.path, bytes, Vec::new())?;
        self.rest_into(&mut into)?;
        Ok(into)
    }

    /// Reads a piece, and compares its sum.
    fn take(&mut self, piece: &mut [u8]) -> Result<(), FileError> {
        let bytes = (piece.len() + SUM) as u64;
        if bytes > self.left {
            return Err(damaged(&self.path, "it ends within a record"));
        }
        self.left -= bytes;
        let mut sum = [0; SUM];
        let read = self.bytes.read_exact(piece).and_then(|()| self.bytes.read_exact(&mut sum));
        read.map_err(FileError::system(&self.path, "read"))?;
        let mut found = self.place.sum();
        found.update(piece);
        if found.finalize().to_le_bytes() != sum {
            let what =
                format!("the bytes of piece {} are not those that were written", self.place.piece);
            return Err(damaged(&self.path, what));
        }
        self.place.piece += 1;
        Ok(())
    }

    /// The part has no more records.
    pub(super) fn finish(self) -> Result<(), FileError> {
        if self.left == 0 {
            Ok(())
        } else {
            Err(damaged(&self.path, "it has more records than the index"))
        }
    }

    /// The error where there is no memory for so many cells.
    pub(super) fn too_large(&self, shape: Vec<usize>) -> FileError {
        FileError::TooLarge { path: self.path.clone(), shape }
    }

    /// An error of what was read from the part.
    pub(super) fn damaged(&self, what: impl Into<String>) -> FileError {
        damaged(&self.path, what)
    }
}
