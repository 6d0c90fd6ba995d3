//! The packages that tests take programs from.

use crate::registry::{Package, Registry};

/// C++, by Microsoft's compiler, with its libraries.
pub const CLANG_FORMAT: Package = Package {
    registry: Registry::PyPi,
    name: "clang-format",
    version: "16.0.6",
    sha256: "e59d80c1ebb4caa744ab6a47200d24bf27bca773834eec0386c7a90e5a6caf1c",
    program: "clang_format/data/bin/clang-format.exe",
};
/// C++, with msvcrt.
pub const SEVEN_ZIP: Package = Package {
    registry: Registry::Npm,
    name: "7zip-bin",
    version: "5.2.0",
    sha256: "04f9738ee00be8be53f5d06254a9e6e4b5117b17f8b74058477d870e62764a7d",
    program: "package/win/x64/7za.exe",
};
/// Rust.
pub const RUFF: Package = Package {
    registry: Registry::PyPi,
    name: "ruff",
    version: "0.1.9",
    sha256: "c497d769164df522fdaf54c6eba93f397342fe4ca2123a2e014a5b8fc7df81c7",
    program: "ruff-0.1.9.data/scripts/ruff.exe",
};
/// Go.
pub const ESBUILD: Package = Package {
    registry: Registry::Npm,
    name: "@esbuild/win32-x64",
    version: "0.19.8",
    sha256: "9f49a67b61c375b7edb37bf834f693c13cd75b046a408d3a6c32c90c430b2172",
    program: "package/esbuild.exe",
};
/// C++, with its C library in itself.
pub const NINJA: Package = Package {
    registry: Registry::PyPi,
    name: "ninja",
    version: "1.11.1.1",
    sha256: "95da904130bfa02ea74ff9c0116b4ad266174fafb1c707aa50212bc7859aebf1",
    program: "ninja/data/bin/ninja.exe",
};
/// A program of 32 bits.
pub const SWIG: Package = Package {
    registry: Registry::PyPi,
    name: "swig",
    version: "4.1.1.post1",
    sha256: "d173b2b97ee3af97370207b35097c40e74cd5fcdd8358604d4b54b66dac7d77a",
    program: "swig/data/bin/swig.exe",
};
