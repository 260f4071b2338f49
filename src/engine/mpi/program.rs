//! Which program this process runs: a number that is another for another executable, asked of no
//! file.

/// What the executable is known by, if the system tells.
///
/// Linkers give every program a build id, a digest of its contents, that is part of what is loaded.
/// Where there is none, the constants that are loaded are digested, the tables for unwinding among
/// them, which tell of the code too.
#[cfg(target_os = "linux")]
pub(super) fn identity() -> Option<u64> {
    use std::{
        ffi::{c_int, c_void},
        slice,
    };

    use nix::libc::{self, PF_W, PF_X, PT_LOAD, PT_NOTE, dl_phdr_info, size_t};

    /// Looks at the first object, which is the program itself, and stops.
    unsafe extern "C" fn look(info: *mut dl_phdr_info, _size: size_t, found: *mut c_void) -> c_int {
        // SAFETY: the linker gives a description that is valid during the call, and `found` is what
        // it was called with; the headers are as many as it says.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Option<u64>>()) };
        if info.dlpi_phdr.is_null() {
            return 1;
        }
        // SAFETY: as above.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let loaded = |header: &libc::Elf64_Phdr| {
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            // SAFETY: the segment is loaded there, for as long as the process lives, and is not
            // writable (asked below).
            unsafe { slice::from_raw_parts(start as *const u8, header.p_memsz as usize) }
        };
        let fixed = || headers.iter().filter(|header| header.p_flags & PF_W == 0);
        let notes = fixed().filter(|header| header.p_type == PT_NOTE);
        *found = notes.map(loaded).find_map(build_id).map(digest);
        if found.is_none() {
            let constants =
                fixed().filter(|header| header.p_type == PT_LOAD && header.p_flags & PF_X == 0);
            *found =
                constants.map(loaded).map(digest).reduce(|all, next| all.rotate_left(1) ^ next);
        }
        1
    }

    let mut found: Option<u64> = None;
    // SAFETY: `look` is called with the address of `found`, which lives until this returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

#[cfg(not(target_os = "linux"))]
pub(super) fn identity() -> Option<u64> {
    None
}

/// The build id among the notes of a segment. A note is three lengths or numbers of 4 bytes, a name
/// and a description, each padded to 4 bytes.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "ELF is asked for it"))]
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const BUILD_ID: u32 = 3;
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let [name, description, kind] = bytemuck::cast::<_, [u32; 3]>(*head);
        let (name, description) = (name as usize, description as usize);
        let description_at = name.next_multiple_of(4);
        let id = rest.get(description_at..description_at.checked_add(description)?)?;
        if kind == BUILD_ID && rest.get(..name)? == b"GNU\0" {
            return Some(id);
        }
        notes = rest.get(description_at + description.next_multiple_of(4)..)?;
    }
    None
}

/// FNV-1a, by words of 8 bytes.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "ELF is asked for it"))]
fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], description: &[u8], kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        let lengths = [name.len() as u32, description.len() as u32, kind];
        note.extend_from_slice(bytemuck::cast_slice(&lengths));
        for part in [name, description] {
            note.extend_from_slice(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let other = note(b"GNU\0", b"abi", 1);
        let id = note(b"GNU\0", &[1, 2, 3, 4, 5], 3);
        assert_eq!(build_id(&[other.clone(), id].concat()), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(build_id(&other), None);
        assert_eq!(build_id(&note(b"Go\0\0", b"id", 3)), None, "another's number 3");
        assert_eq!(build_id(&note(b"GNU\0", &[7; 20], 3)[..20]), None, "cut off");
    }

    #[test]
    fn digests_tell_contents_apart() {
        assert_ne!(digest(b"abcdefgh"), digest(b"abcdefgi"));
        assert_ne!(digest(b"a"), digest(b"b"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_program_is_known() {
        assert!(identity().is_some());
        assert_eq!(identity(), identity());
    }
}
