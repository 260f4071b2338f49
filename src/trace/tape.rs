//! The tape of a rank: bounded rings of records in a mapped file.
//!
//! A file that is mapped keeps what was written into it when its process is killed. Its disk space
//! is taken when it is made, so that writing needs none later. Only raw copies go into the mapping
//! and nothing of it is ever borrowed: whoever else changes the file does no harm here.
//!
//! ```text
//! head | words: u16 length, bytes ... | calls: records ... | CPU times: records ...
//! ```
//!
//! The rank's thread writes words and calls, the sampler CPU times; numbers in the head say how
//! many there are, and are written after them.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::c_void,
    fs::{File, OpenOptions},
    hash::{BuildHasherDefault, Hasher},
    io,
    num::NonZeroUsize,
    path::Path,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};

/// What a part begins with; the number is its format's.
pub(super) const MAGIC: u64 = u64::from_ne_bytes(*b"spmdtrc1");

/// The bytes of the head.
pub(super) const HEAD_BYTES: usize = 4096;

/// Room for names and places.
const WORD_BYTES: usize = 256 << 10;

/// One clock for all processes of a host, in nanoseconds.
#[inline]
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// What a rank notes of one call, span or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct CallRecord {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// Bytes.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Numbers of words.
    pub(crate) name: u32,
    pub(crate) place: u32,
    pub(crate) comm: u32,
    /// A world rank.
    pub(crate) peer: u32,
    pub(crate) tag: u32,
    /// The number of a collective call.
    pub(crate) collective: u32,
    pub(crate) cpu: u32,
    pub(crate) kind: u8,
    pub(crate) unused: [u8; 3],
}

impl CallRecord {
    /// What kind of record it is: a call that begins something,
    pub(crate) const CALL: u8 = 1;
    /// one that completes what another has begun,
    pub(crate) const COMPLETION: u8 = 2;
    /// a span of the program,
    pub(crate) const SPAN: u8 = 3;
    /// a message to a rank, in the call that follows,
    pub(crate) const SENT: u8 = 4;
    /// a message from a rank, in the call that follows.
    pub(crate) const RECEIVED: u8 = 5;

    /// No rank, no number.
    pub(crate) const NONE: u32 = u32::MAX;

    pub(crate) const EMPTY: Self = Self {
        start_ns: 0,
        end_ns: 0,
        sent: 0,
        received: 0,
        name: 0,
        place: 0,
        comm: 0,
        peer: Self::NONE,
        tag: 0,
        collective: Self::NONE,
        cpu: Self::NONE,
        kind: 0,
        unused: [0; 3],
    };
}

/// What the sampler notes of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct CpuRecord {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) ran_ns: u64,
    pub(crate) waited_ns: u64,
    pub(crate) thread: u32,
    pub(crate) cpu: u32,
}

/// How far this rank's clock is behind rank 0's at a time, and by how much that may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
#[allow(clippy::struct_field_names, reason = "the unit is said with each number")]
pub(crate) struct Clocks {
    /// The time by its own clock; 0 if they were not compared.
    pub(crate) at_ns: u64,
    pub(crate) behind_ns: i64,
    pub(crate) error_ns: u64,
}

/// What the head of a part says, beside its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct PartHead {
    pub(super) magic: u64,
    /// The job, the same on all ranks.
    pub(super) job: u64,
    pub(super) rank: u64,
    pub(super) size: u64,
    pub(super) call_room: u64,
    pub(super) cpu_room: u64,
    pub(super) word_room: u64,
    // From here on they change.
    pub(super) word_bytes: u64,
    pub(super) calls: u64,
    pub(super) cpu_times: u64,
    pub(super) began_ns: u64,
    /// 0 while the rank runs.
    pub(super) ended_ns: u64,
    pub(super) switches: [u64; 2],
    pub(super) cpu_ns: u64,
    pub(super) first: Clocks,
    pub(super) last: Clocks,
    /// The call that the rank is in: begun when (0 is none), name, place, other side.
    pub(super) inside_ns: u64,
    pub(super) inside_name: u32,
    pub(super) inside_place: u32,
    pub(super) inside_peer: u32,
    pub(super) unused: u32,
}

/// Where a field of the head stands.
macro_rules! at {
    ($field:ident) => {
        std::mem::offset_of!(PartHead, $field)
    };
}

/// The mapped file.
struct Mapping {
    begin: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: it holds an address; what is written there goes through `put` and `publish`, and whoever
// writes keeps to a place of its own (see `Tape` and `CpuTape`).
unsafe impl Send for Mapping {}

// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn create(path: &Path, bytes: usize) -> io::Result<Self> {
        // Nobody else's: what lies there is removed, not written into.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        take_space(&file, bytes)?;
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let (how, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        #[cfg(target_os = "linux")]
        let flags = flags | MapFlags::MAP_POPULATE; // no fault in the middle of a measurement
        // SAFETY: a new mapping at an address that the system chooses; it replaces nothing.
        let begin = unsafe { mmap(None, length, how, flags, &file, 0) }?;
        Ok(Self { begin, bytes })
    }

    /// Writes bytes at a place.
    #[inline]
    fn put(&self, at: usize, bytes: &[u8]) {
        let end = at.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "a record has room in its part");
        // SAFETY: it ends within the mapping, as was looked at; nothing of the mapping is borrowed,
        // and no other thread writes at this place (see `Tape` and `CpuTape`).
        unsafe {
            let place = self.begin.as_ptr().cast::<u8>().add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
    }

    /// Writes a number of the head, after all that was put before.
    #[inline]
    fn publish(&self, at: usize, number: u64) {
        assert!(at.is_multiple_of(8) && at + 8 <= HEAD_BYTES, "a number of the head");
        // SAFETY: within the mapping, which is longer than a head; aligned, as mappings begin at a
        // page; a number of the head is written in this way only while others may read it.
        unsafe {
            let place = self.begin.as_ptr().cast::<u64>().add(at / 8);
            AtomicU64::from_ptr(place).store(number, Ordering::Release);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, nothing of it is borrowed, and nobody has it any
        // more.
        let _ = unsafe { munmap(self.begin, self.bytes) };
    }
}

/// Takes the space of a file, so that writing into its mapping cannot fail.
fn take_space(file: &File, bytes: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match nix::fcntl::posix_fallocate(file, 0, bytes as i64) {
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => {}
        other => return other.map_err(Into::into),
    }
    let zeros = vec![0_u8; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(zeros.len());
        io::Write::write_all(&mut &*file, &zeros[..now])?;
        left -= now;
    }
    Ok(())
}

/// Where a rank notes what it does; its thread's own.
pub(crate) struct Tape {
    map: Arc<Mapping>,
    calls_at: usize,
    room: u64,
    calls: Cell<u64>,
    words: RefCell<Words>,
}

/// Where the sampler notes what the rank's threads had of the CPUs.
pub(crate) struct CpuTape {
    map: Arc<Mapping>,
    at: usize,
    room: u64,
    count: u64,
}

#[derive(Default)]
struct Words {
    /// The number of a text, by its address: they live as long as the program.
    known: HashMap<(usize, usize), u32, BuildHasherDefault<AddressHasher>>,
    /// The number of a text that was made.
    made: HashMap<String, u32>,
    count: u32,
    bytes: usize,
}

/// Addresses are spread well by a multiplication.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(byte.into());
        }
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.0 = (self.0.rotate_left(5) ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Tape {
    /// Makes the part of a rank, with room for about so many bytes of records.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn create(
        path: &Path,
        [job, rank, size]: [u64; 3],
        (host, program): (&str, &str),
        bytes: usize,
    ) -> io::Result<(Self, CpuTape)> {
        let call_room = (bytes / size_of::<CallRecord>()).max(16);
        let cpu_room = (call_room / 4).max(16);
        let calls_at = HEAD_BYTES + WORD_BYTES;
        let cpu_at = calls_at + call_room * size_of::<CallRecord>();
        let map = Mapping::create(path, cpu_at + cpu_room * size_of::<CpuRecord>())?;
        let head = PartHead {
            magic: MAGIC,
            job,
            rank,
            size,
            call_room: call_room as u64,
            cpu_room: cpu_room as u64,
            word_room: WORD_BYTES as u64,
            began_ns: now_ns(),
            ..bytemuck::Zeroable::zeroed()
        };
        map.put(0, bytemuck::bytes_of(&head));
        let map = Arc::new(map);
        let cpu = CpuTape { map: Arc::clone(&map), at: cpu_at, room: cpu_room as u64, count: 0 };
        let tape = Self {
            map,
            calls_at,
            room: call_room as u64,
            calls: Cell::new(0),
            words: RefCell::default(),
        };
        for word in ["", host, program] {
            tape.word(word); // numbers 0, 1 and 2
        }
        Ok((tape, cpu))
    }

    /// The number of a text that lives as long as the program.
    #[inline]
    pub(crate) fn known_word(&self, text: &'static str) -> u32 {
        self.known((text.as_ptr() as usize, text.len()), || text.to_owned())
    }

    /// The number of a place in the program.
    #[inline]
    pub(crate) fn place(&self, at: &'static std::panic::Location<'static>) -> u32 {
        let key = (std::ptr::from_ref(at) as usize, usize::MAX);
        self.known(key, || format!("{}:{}", at.file(), at.line()))
    }

    #[inline]
    fn known(&self, key: (usize, usize), text: impl FnOnce() -> String) -> u32 {
        if let Some(&number) = self.words.borrow().known.get(&key) {
            return number;
        }
        let number = self.word(&text());
        self.words.borrow_mut().known.insert(key, number);
        number
    }

    /// The number of a text. What there is no room for is the empty one.
    pub(crate) fn word(&self, text: &str) -> u32 {
        let words = &mut *self.words.borrow_mut();
        if let Some(&number) = words.made.get(text) {
            return number;
        }
        // Longer ones are cut, at the end of a letter.
        let cuts = (0..=text.len().min(u16::MAX.into())).rev();
        let end = cuts.into_iter().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let (short, length) = (&text[..end], end as u16);
        if words.bytes + 2 + short.len() > WORD_BYTES {
            return 0;
        }
        self.map.put(HEAD_BYTES + words.bytes, &length.to_ne_bytes());
        self.map.put(HEAD_BYTES + words.bytes + 2, short.as_bytes());
        words.bytes += 2 + short.len();
        words.count += 1;
        words.made.insert(text.to_owned(), words.count - 1);
        self.map.publish(at!(word_bytes), words.bytes as u64);
        words.count - 1
    }

    /// The rank is in a call from now on.
    #[inline]
    pub(crate) fn enter(&self, start_ns: u64, name: u32, place: u32, peer: u32) {
        self.map.put(at!(inside_name), bytemuck::bytes_of(&[name, place, peer]));
        self.map.publish(at!(inside_ns), start_ns);
    }

    /// The rank is in no call any more.
    #[inline]
    pub(crate) fn leave(&self) {
        self.map.publish(at!(inside_ns), 0);
    }

    #[inline]
    pub(crate) fn note(&self, record: &CallRecord) {
        let count = self.calls.get();
        let place = (count % self.room) as usize * size_of::<CallRecord>();
        self.map.put(self.calls_at + place, bytemuck::bytes_of(record));
        self.calls.set(count + 1);
        self.map.publish(at!(calls), count + 1);
    }

    /// How this rank's clock stands to rank 0's, before the program and after it.
    pub(crate) fn set_clocks(&self, last: bool, clocks: Clocks) {
        let at = if last { at!(last) } else { at!(first) };
        self.map.put(at, bytemuck::bytes_of(&clocks));
    }

    /// The rank has ended; what it has cost.
    pub(crate) fn end(&self, switches: [u64; 2], cpu_ns: u64) {
        self.map.put(at!(switches), bytemuck::bytes_of(&switches));
        self.map.put(at!(cpu_ns), bytemuck::bytes_of(&cpu_ns));
        self.map.publish(at!(ended_ns), now_ns());
    }
}

impl CpuTape {
    pub(crate) fn note(&mut self, record: &CpuRecord) {
        let place = (self.count % self.room) as usize * size_of::<CpuRecord>();
        self.map.put(self.at + place, bytemuck::bytes_of(record));
        self.count += 1;
        self.map.publish(at!(cpu_times), self.count);
    }
}
