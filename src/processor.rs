//! Looks at the processor before anything else of the program runs, and says what it lacks, where
//! the first instruction that it does not know would only say "illegal instruction".
//!
//! What the program may use is `.cargo/config.toml`'s business.

#[cfg(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "pclmulqdq"))]
mod x86_64 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    use crate::fatal::Cause;

    /// A set of feature bits, and the name of what is missing without them.
    type Wanted = &'static [(u32, &'static str)];
    /// Leaf 1, ecx.
    const BASIC: Wanted = &[
        (1 << 1, "pclmulqdq"),
        (1 << 12, "fma"),
        (1 << 20, "sse4_2"),
        (1 << 22, "movbe"),
        (1 << 23, "popcnt"),
        (1 << 27, "osxsave"),
        (1 << 28, "avx"),
        (1 << 29, "f16c"),
    ];
    /// Leaf 7, ebx.
    const EXTENDED: Wanted = &[(1 << 3, "bmi1"), (1 << 5, "avx2"), (1 << 8, "bmi2")];
    /// Leaf 0x8000_0001, ecx.
    const AMD: Wanted = &[(1 << 5, "lzcnt")];

    /// The first of the wanted features that these registers do not show.
    pub fn missing(basic: u32, extended: u32, amd: u32) -> Option<&'static str> {
        let lacks = |wanted: Wanted, found: u32| {
            wanted.iter().find(|(bit, _)| found & bit == 0).map(|(_, name)| *name)
        };
        lacks(BASIC, basic).or_else(|| lacks(EXTENDED, extended)).or_else(|| lacks(AMD, amd))
    }

    /// In front of every constructor, RocksDB's among them, which may use what is looked for.
    #[used]
    // SAFETY: the loader calls what stands here as C functions, on the main thread, once.
    #[unsafe(link_section = ".preinit_array")]
    static CHECK: extern "C" fn() = check;

    extern "C" fn check() {
        let (basic, extended, amd) =
            (__cpuid(1).ecx, __cpuid_count(7, 0).ebx, __cpuid(0x8000_0001).ecx);
        let Some(name) = missing(basic, extended, amd) else { return };
        let parts = [
            "ringpost: this processor lacks ",
            name,
            ", which this build uses (x86-64-v3 and pclmulqdq); build it on this machine with \
             RUSTFLAGS='-C target-cpu=native' make build\n",
        ];
        for part in parts {
            // SAFETY: a static string's bytes, to a descriptor that needs no state of ours.
            // Whether anybody reads it does not matter.
            let _unheard = unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
        }
        // SAFETY: it ends the process without running anything of it.
        unsafe { libc::_exit(Cause::Environment as i32) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_first_feature_that_is_missing_is_named() {
            assert_eq!(missing(u32::MAX, u32::MAX, u32::MAX), None);
            assert_eq!(missing(!(1 << 1), u32::MAX, u32::MAX), Some("pclmulqdq"));
            assert_eq!(missing(u32::MAX, !(1 << 5), u32::MAX), Some("avx2"));
            assert_eq!(missing(u32::MAX, u32::MAX, 0), Some("lzcnt"));
        }
    }
}
