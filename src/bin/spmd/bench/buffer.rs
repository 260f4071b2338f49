//! The memory that messages come from and go to.

use std::{
    hint::black_box,
    ops::{Deref, DerefMut},
};

use spmd::{Datum, Failure};

/// Where OSU's buffers begin, and those of `benches/peers/`: on a page.
const PAGE_BYTES: usize = 4096;

/// Elements in memory that begins on a page.
pub(super) struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
    count: usize,
}

impl<T: Element> Buffer<T> {
    /// `count` elements, written once so that the memory is there.
    ///
    /// # Errors
    /// If there is no room for them.
    pub(super) fn new(count: usize) -> Result<Self, Failure> {
        let page = PAGE_BYTES / size_of::<T>();
        let (mut memory, room) = (Vec::new(), count.saturating_add(page));
        memory.try_reserve_exact(room).map_err(|_| {
            let bytes = count.saturating_mul(size_of::<T>());
            Failure::new(format!(
                "{bytes} bytes do not fit into this rank's memory\n  help: give smaller --sizes"
            ))
        })?;
        memory.resize(room, T::of(1));
        let start = memory.as_ptr().align_offset(PAGE_BYTES).min(page);
        Ok(Self { memory, start, count })
    }

    /// Writes the pattern number `key`.
    pub(super) fn write_pattern(&mut self, key: usize) {
        write_pattern(self, key);
    }

    /// Whether here is what [`Buffer::write_pattern`] wrote with this key.
    pub(super) fn has_pattern(&self, key: usize) -> bool {
        has_pattern(self, key)
    }

    /// Writes all of it, as a program does that sends something new.
    pub(super) fn touch(&mut self, turn: usize) {
        self.fill(T::of(turn as u8));
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.start..][..self.count]
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..][..self.count]
    }
}

/// What buffers hold: bytes, or the floats of reductions.
pub(super) trait Element: Datum + Copy + PartialEq {
    fn of(byte: u8) -> Self;
}

impl Element for u8 {
    fn of(byte: u8) -> Self {
        byte
    }
}

impl Element for f32 {
    /// Small whole numbers, whose sums are exact.
    fn of(byte: u8) -> Self {
        f32::from(byte % 64)
    }
}

/// The element at `index` of the pattern number `key`.
pub(super) fn pattern<T: Element>(key: usize, index: usize) -> T {
    T::of((key * 37 + index * 7 + index / 256) as u8)
}

/// Writes the pattern number `key`.
pub(super) fn write_pattern<T: Element>(elements: &mut [T], key: usize) {
    for (index, element) in elements.iter_mut().enumerate() {
        *element = pattern(key, index);
    }
}

/// Whether elements are those of the pattern number `key`.
pub(super) fn has_pattern<T: Element>(elements: &[T], key: usize) -> bool {
    elements.iter().enumerate().all(|(index, element)| *element == pattern(key, index))
}

/// Reads all of it, as a program does that uses what it has received.
pub(super) fn read<T: Element>(elements: &[T]) {
    let bytes: &[u8] = spmd::bytemuck::cast_slice(elements);
    let (words, _) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0_u64, |sum, &word| sum.wrapping_add(u64::from_ne_bytes(word)));
    black_box(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_page() {
        for count in [0, 1, 100, 5000] {
            let (bytes, floats) =
                (Buffer::<u8>::new(count).unwrap(), Buffer::<f32>::new(count).unwrap());
            assert_eq!((bytes.len(), floats.len()), (count, count));
            assert_eq!(bytes.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!(floats.as_ptr() as usize % PAGE_BYTES, 0);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for count in [usize::MAX, usize::MAX / 8] {
            let Err(failure) = Buffer::<f32>::new(count) else { panic!("{count} fit") };
            assert!(failure.to_string().contains("--sizes"), "{failure}");
        }
    }

    #[test]
    fn patterns_of_neighbours_differ() {
        let mut buffer = Buffer::<u8>::new(1000).unwrap();
        buffer.write_pattern(3);
        assert!(buffer.has_pattern(3) && !buffer.has_pattern(4));
        buffer[999] ^= 1;
        assert!(!buffer.has_pattern(3));
    }
}
