//! The program and its libraries in memory, with what unwinding through them takes.

use libc::{c_int, c_void};

/// A program or library in memory, with what unwinding through it takes.
pub struct Module {
    /// Path; empty for the program itself.
    pub name: String,
    /// What was added to the addresses in its file.
    pub bias: u64,
    /// Where its code is in memory.
    pub code: Vec<std::ops::Range<u64>>,
    /// `.eh_frame_hdr` and `.eh_frame`: address in memory, and a copy.
    pub unwind: Option<[(u64, Vec<u8>); 2]>,
}

/// Everything that is mapped now.
pub fn modules() -> Vec<Module> {
    unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _: usize, list: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr gives a valid entry and passes on the list that we gave it.
        unsafe { (*list.cast::<Vec<Module>>()).push(module(&*info)) };
        0
    }
    let mut list: Vec<Module> = Vec::new();
    // SAFETY: the callback has the signature asked for, and the list outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut list).cast()) };
    list
}

/// # Safety
/// `info` is what dl_iterate_phdr gave, during its call: nothing is unmapped meanwhile.
unsafe fn module(info: &libc::dl_phdr_info) -> Module {
    // SAFETY: as promised by the caller; the name is a C string or null.
    let (headers, name) = unsafe {
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        let name = (!info.dlpi_name.is_null()).then(|| std::ffi::CStr::from_ptr(info.dlpi_name));
        (headers, name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
    };
    let bias = info.dlpi_addr;
    let range = |header: &libc::Elf64_Phdr| {
        let start = bias.wrapping_add(header.p_vaddr);
        start..start.saturating_add(header.p_memsz)
    };
    let loaded = |flag: u32| {
        let has =
            move |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & flag != 0;
        headers.iter().filter(has).map(range)
    };
    let copy = |range: std::ops::Range<u64>| {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        // SAFETY: the range is inside a segment that is mapped for reading.
        (range.start, unsafe { std::slice::from_raw_parts(range.start as *const u8, length) }.to_vec())
    };
    let within = |inner: &std::ops::Range<u64>| {
        let mut segments = loaded(libc::PF_R);
        segments.find(|segment| segment.start <= inner.start && inner.start < segment.end)
    };
    let unwind = || {
        let header = range(headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME)?);
        let header = header.start..header.end.min(within(&header)?.end);
        let header = copy(header);
        // Version 1; .eh_frame's address as 32 bits relative to where it stands, as all linkers write it.
        let [1, 0x1b, _, _, offset @ ..] = header.1.first_chunk::<8>()? else { return None };
        let start = header.0.wrapping_add(4).wrapping_add_signed(i64::from(i32::from_ne_bytes(*offset)));
        let end = within(&(start..start))?.end;
        Some([header, copy(start..end)])
    };
    Module { name, bias, code: loaded(libc::PF_X).collect(), unwind: unwind() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_among_the_modules_with_its_unwind_tables() {
        let here = the_program_is_among_the_modules_with_its_unwind_tables as *const () as u64;
        let modules = modules();
        let own = modules.iter().find(|module| module.code.iter().any(|code| code.contains(&here))).unwrap();
        assert_eq!(own.name, "");
        let [header, frames] = own.unwind.as_ref().unwrap();
        assert!(header.1.len() > 100 && frames.1.len() > 1000);
    }
}
