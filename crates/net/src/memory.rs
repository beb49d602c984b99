//! What the allocator keeps for itself, and what of the program stays mapped.

use std::ops::Range;

/// Gives memory back to the kernel: what has been freed, wherever in the heap it lies, and the pages of the program's code.
///
/// The allocator gives back by itself only at a heap's end: what is needed for a moment would count for ever where something that stays was
/// allocated after it. Takes some milliseconds for each 100 MB. Of the code a start runs ten times as much as the work that follows; what that needs
/// comes back from the file when it is run.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and changes only the allocator's own lists, under the allocator's locks.
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
    for code in own_code() {
        // SAFETY: the range is a mapping of our own file that nobody can write to, so that each page is what the file has, and is read from there
        // again when it is touched. A failure changes nothing.
        #[allow(unsafe_code)]
        unsafe {
            nix::libc::madvise(code.start as *mut nix::libc::c_void, code.len(), nix::libc::MADV_DONTNEED);
        }
    }
}

/// Has the allocator keep little of what is freed for itself: for a program that for moments needs much more than it keeps. Once, at the start.
///
/// By itself it learns from each large block that is freed to keep the next one, so that moments of many connections add up.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers, and changes only the allocator's own settings.
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 1 << 20);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// Where our own program's code is mapped.
fn own_code() -> Vec<Range<usize>> {
    let exe = std::fs::read_link("/proc/self/exe").ok();
    let maps = std::fs::read_to_string("/proc/self/maps").ok();
    exe.zip(maps).map(|(exe, maps)| maps.lines().filter_map(|line| code_of(line, exe.to_str()?)).collect()).unwrap_or_default()
}

/// The range of a line of `/proc/PID/maps` (proc_pid_maps(5)), if it is code of this file, which is still the one that was started.
fn code_of(line: &str, exe: &str) -> Option<Range<usize>> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp";
    let is_own = words.nth(3)?.trim_start() == exe;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    (is_code && is_own && !range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_apart() {
        let exe = "/opt/mizzen proxy";
        for (line, expected) in [
            ("1000-3000 r-xp 00001000 fd:00 42   /opt/mizzen proxy", Some(0x1000..0x3000)),
            ("1000-3000 r--p 00001000 fd:00 42   /opt/mizzen proxy", None),
            ("1000-3000 rwxp 00001000 fd:00 42   /opt/mizzen proxy", None),
            ("1000-3000 r-xs 00001000 fd:00 42   /opt/mizzen proxy", None),
            ("1000-3000 r-xp 00001000 fd:00 42   /opt/mizzen proxy (deleted)", None),
            ("1000-3000 r-xp 00001000 fd:00 42   /usr/lib/libc.so.6", None),
            ("1000-3000 r-xp 00000000 00:00 0 ", None),
            ("3000-1000 r-xp 00001000 fd:00 42   /opt/mizzen proxy", None),
            ("garbage", None),
            ("", None),
        ] {
            assert_eq!(code_of(line, exe), expected, "{line}");
        }
    }

    /// Bytes of our own code that are mapped at the moment.
    fn resident() -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let mut lines = smaps.lines().skip_while(|line| code_of(line, exe.to_str().unwrap()).is_none());
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn code_is_given_back_and_goes_on_running() {
        assert!(!own_code().is_empty());
        // All of it is mapped by being read.
        let all: usize = own_code().iter().map(|range| range.len()).sum();
        for code in own_code() {
            for page in code.step_by(4096) {
                // SAFETY: mapped and readable.
                #[allow(unsafe_code)]
                let byte = unsafe { std::ptr::read_volatile(page as *const u8) };
                std::hint::black_box(byte);
            }
        }
        let before = resident();
        assert!(before >= all / 2, "{before} of {all}");
        release_memory();
        let after = resident();
        assert!(after < before, "{after} of {before}");
        assert_eq!("still".to_uppercase(), "STILL");
    }
}
