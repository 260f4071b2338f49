//! An allocator that puts what ranks allocate between pages that nobody may touch.
//!
//! Of the allocations that a thread makes while it is guarded, those of 64 bytes and more lie at
//! the very end or at the very start of pages of their own, in turn. The page behind and the page
//! before them cannot be accessed: who reads or writes there dies at once. What is left of their
//! own pages holds a pattern, which is looked at when they are freed: not every way around them
//! leads over a page (a library that copies by the kernel gets an error there, and a few bytes may
//! be left for the sake of alignment). New memory holds another pattern, by which it is told when
//! somebody delivers it; freed memory cannot be accessed, and is used again as late as possible.
#![allow(unsafe_code)]
#![allow(clippy::large_stack_arrays, reason = "it is made by the compiler")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use nix::libc;

use super::wrong::{OUTSIDE, UNWRITTEN};

const PAGE: usize = 4096;
/// Smaller allocations are not a message's.
const SMALLEST: usize = 64;

/// Places for allocations of up to so many pages, and how many places there are: a process may have
/// some 65 000 pieces of memory of different access, and each place that was ever used is two or
/// three.
const CLASSES: [(usize, usize); 3] = [(3, 1 << 13), (31, 1 << 11), (511, 1 << 7)];
const PLACES: usize = CLASSES[0].1 + CLASSES[1].1 + CLASSES[2].1;

pub(crate) struct Guard {
    /// Where the places of all classes begin; 0 before the first.
    start: AtomicUsize,
    lock: AtomicBool,
    /// For each place, the size of what lies there and how far it is from the place's first page;
    /// while it is free, the next free one.
    places: [AtomicU64; PLACES],
    /// First and last free place of each class, one more than its number; those never used follow
    /// the number of used ones.
    free: [[AtomicUsize; 3]; 3],
    turn: AtomicUsize,
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// From now on what this thread allocates is guarded, or no longer.
pub(crate) fn guard(on: bool) {
    GUARDED.set(on);
}

/// How many allocations have been guarded.
pub(crate) fn guarded(by: &Guard) -> usize {
    by.turn.load(Ordering::Relaxed)
}

impl Guard {
    pub(crate) const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            lock: AtomicBool::new(false),
            places: [const { AtomicU64::new(0) }; PLACES],
            free: [const { [const { AtomicUsize::new(0) }; 3] }; 3],
            turn: AtomicUsize::new(0),
        }
    }

    /// Does something that no other thread does meanwhile.
    fn alone<R>(&self, what: impl FnOnce() -> R) -> R {
        while self.lock.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        let result = what();
        self.lock.store(false, Ordering::Release);
        result
    }

    fn first(class: usize) -> usize {
        CLASSES[..class].iter().map(|(_, count)| count).sum()
    }

    /// The distance of a class's places, the page between them included, and where they begin.
    fn span(class: usize) -> (usize, usize) {
        let bytes = |(pages, count): &(usize, usize)| (pages + 1) * PAGE * count;
        ((CLASSES[class].0 + 1) * PAGE, CLASSES[..class].iter().map(bytes).sum::<usize>() + PAGE)
    }

    /// Where the places begin.
    fn start(&self) -> Option<usize> {
        let start = self.start.load(Ordering::Acquire);
        if start != 0 {
            return Some(start);
        }
        self.alone(|| {
            let start = self.start.load(Ordering::Acquire);
            if start != 0 {
                return Some(start);
            }
            let (last, bytes) = (CLASSES.len() - 1, Self::span(CLASSES.len() - 1));
            let all = bytes.1 + bytes.0 * CLASSES[last].1;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: new memory at an address that the system chooses.
            let start = unsafe { libc::mmap(ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                return None;
            }
            self.start.store(start as usize, Ordering::Release);
            Some(start as usize)
        })
    }

    /// A free place of the class.
    fn take(&self, class: usize) -> Option<usize> {
        let [first, last, used] = &self.free[class];
        self.alone(|| {
            // Places that were never used come first, then those that have been free for the
            // longest time.
            let number = used.load(Ordering::Relaxed);
            if number < CLASSES[class].1 {
                used.store(number + 1, Ordering::Relaxed);
                return Some(Self::first(class) + number);
            }
            let place = first.load(Ordering::Relaxed).checked_sub(1)?;
            let next = self.places[place].load(Ordering::Relaxed) as usize;
            first.store(next, Ordering::Relaxed);
            if next == 0 {
                last.store(0, Ordering::Relaxed);
            }
            Some(place)
        })
    }

    fn give_back(&self, class: usize, place: usize) {
        let [first, last, _] = &self.free[class];
        self.alone(|| {
            self.places[place].store(0, Ordering::Relaxed);
            match last.load(Ordering::Relaxed).checked_sub(1) {
                Some(before) => self.places[before].store(place as u64 + 1, Ordering::Relaxed),
                None => first.store(place + 1, Ordering::Relaxed),
            }
            last.store(place + 1, Ordering::Relaxed);
        });
    }

    fn guarded(&self, layout: Layout, fill: u8) -> Option<*mut u8> {
        let pages = layout.size().div_ceil(PAGE);
        let class = CLASSES.iter().position(|&(most, _)| pages <= most)?;
        if layout.align() > PAGE {
            return None;
        }
        let (start, (distance, offset)) = (self.start()?, Self::span(class));
        let place = self.take(class)?;
        let page = start + offset + (place - Self::first(class)) * distance;
        let at_end = !self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        let first = if at_end { page + (CLASSES[class].0 - pages) * PAGE } else { page };
        let most = pages * PAGE;
        let shift = if at_end { (most - layout.size()) & !(layout.align() - 1) } else { 0 };
        // SAFETY: these pages are a place of ours that nothing else lies in.
        unsafe {
            if libc::mprotect(first as *mut _, most, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                self.give_back(class, place);
                return None;
            }
            ptr::write_bytes(first as *mut u8, OUTSIDE, shift);
            ptr::write_bytes((first + shift) as *mut u8, fill, layout.size());
            let behind = shift + layout.size();
            ptr::write_bytes((first + behind) as *mut u8, OUTSIDE, most - behind);
        }
        self.places[place].store((first + shift - page) as u64, Ordering::Relaxed);
        Some((first + shift) as *mut u8)
    }

    /// The class and the place that an address is in.
    fn find(&self, address: usize) -> Option<(usize, usize)> {
        let start = self.start.load(Ordering::Acquire);
        if start == 0 || address < start {
            return None;
        }
        (0..CLASSES.len()).find_map(|class| {
            let (distance, offset) = Self::span(class);
            let number = address.checked_sub(start + offset)? / distance;
            (number < CLASSES[class].1).then(|| (class, Self::first(class) + number))
        })
    }

    /// Whether it was one of ours.
    fn free(&self, address: *mut u8, layout: Layout) -> bool {
        let start = self.start.load(Ordering::Acquire);
        let Some((class, place)) = self.find(address as usize) else { return false };
        let (distance, offset) = Self::span(class);
        let page = start + offset + (place - Self::first(class)) * distance;
        if self.places[place].load(Ordering::Relaxed) as usize != address as usize - page {
            damaged("something was freed that was not allocated, or twice");
        }
        let first = address as usize & !(PAGE - 1);
        let most = layout.size().div_ceil(PAGE) * PAGE;
        let own = address as usize - first;
        // SAFETY: the pages of this allocation, which nobody else uses any more.
        let all = unsafe { std::slice::from_raw_parts(first as *const u8, most) };
        let whole = |bytes: &[u8]| bytes.iter().all(|&byte| byte == OUTSIDE);
        if !whole(&all[..own]) || !whole(&all[own + layout.size()..]) {
            damaged("memory beside an allocation was changed");
        }
        // SAFETY: as above; whoever touches them from now on dies.
        unsafe { libc::mprotect(first as *mut _, most, libc::PROT_NONE) };
        self.give_back(class, place);
        true
    }
}

/// Says so without allocating, and ends the process.
fn damaged(what: &str) -> ! {
    let text = ["damaged: ", what, "\n"];
    for part in text {
        // SAFETY: a string's bytes, to standard error.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}

// SAFETY: what it gives is the system's, or pages of its own that nothing else lies in until they
// are freed.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let guarded = layout.size() >= SMALLEST && GUARDED.get();
        if let Some(memory) = guarded.then(|| self.guarded(layout, UNWRITTEN)).flatten() {
            return memory;
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let guarded = layout.size() >= SMALLEST && GUARDED.get();
        if let Some(memory) = guarded.then(|| self.guarded(layout, 0)).flatten() {
            return memory;
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !self.free(memory, layout) {
            // SAFETY: it is none of ours, so it is the system's.
            unsafe { System.dealloc(memory, layout) };
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.find(memory as usize).is_none() && !GUARDED.get() {
            // SAFETY: it is none of ours, so it is the system's.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller's promises: the size is not 0 and fits.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(memory, new, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}
