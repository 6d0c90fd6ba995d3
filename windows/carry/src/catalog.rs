//! What is known of each function that a program may call.

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress, LoadLibraryA};

use crate::calls;

/// What happens when the program calls a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It works on the caller's stack and registers: called there.
    Direct,
    /// Ours; it does not wait.
    Quick,
    /// Ours; a thread may stand still in it.
    Waiting,
    /// The system's. It leaves nothing behind that would have to be carried.
    Plain,
    /// The system's. A program that has called it cannot be carried.
    Unknown,
}

/// Where a function of ours is.
pub(crate) struct Address(pub(crate) *const ());

// SAFETY: an address of code, which is only read.
unsafe impl Sync for Address {}

/// A function of ours.
pub(crate) struct Ours {
    pub(crate) name: &'static str,
    pub(crate) how: How,
    pub(crate) function: Address,
    /// Where the system's own is put, for those that need it.
    pub(crate) real: Option<&'static std::sync::atomic::AtomicUsize>,
}

pub(crate) fn how(name: &str) -> How {
    if let Some(ours) = calls::find(name) {
        return ours.how;
    }
    if DIRECT.contains(&name) {
        return How::Direct;
    }
    if PLAIN.contains(&name) { How::Plain } else { How::Unknown }
}

/// Where the thunk of a function leads. Nothing where the system has none.
pub(crate) fn target(dll: &str, name: &str) -> Option<usize> {
    let Some(ours) = calls::find(name) else { return real(dll, name) };
    if let Some(place) = ours.real {
        place.store(real(dll, name)?, std::sync::atomic::Ordering::Release);
    }
    Some(ours.function.0 as usize)
}

/// The system's own function.
pub(crate) fn real(dll: &str, name: &str) -> Option<usize> {
    let module = module(dll)?;
    let function = match name.strip_prefix('#') {
        // SAFETY: a loaded library, and an ordinal.
        Some(ordinal) => unsafe {
            GetProcAddress(module, ordinal.parse::<u16>().ok()? as usize as *const u8)
        },
        None => {
            let name = format!("{name}\0");
            // SAFETY: a loaded library, and a text that ends with a zero.
            unsafe { GetProcAddress(module, name.as_ptr()) }
        }
    };
    function.map(|function| function as usize)
}

pub(crate) fn module(dll: &str) -> Option<HMODULE> {
    let name = format!("{dll}\0");
    // SAFETY: a text that ends with a zero.
    let module = unsafe { GetModuleHandleA(name.as_ptr()) };
    if !module.is_null() {
        return Some(module);
    }
    // SAFETY: as above.
    let module = unsafe { LoadLibraryA(name.as_ptr()) };
    (!module.is_null()).then_some(module)
}

/// They walk or change the caller's stack or registers, or only read the TEB.
const DIRECT: [&str; 18] = [
    "GetCurrentThreadStackLimits",
    "RaiseException",
    "RtlRaiseException",
    "RtlUnwind",
    "RtlUnwindEx",
    "RtlVirtualUnwind",
    "RtlLookupFunctionEntry",
    "RtlCaptureContext",
    "RtlRestoreContext",
    "__C_specific_handler",
    "UnhandledExceptionFilter",
    "GetLastError",
    "SetLastError",
    "RtlGetLastWin32Error",
    "RtlSetLastWin32Error",
    "TlsGetValue",
    "TlsSetValue",
    "DebugBreak",
];

/// They compute, or read or change what lies outside of the process, or what is read at a capture and set at a restore: the environment,
/// the current directory, the error mode.
const PLAIN: &[&str] = &[
    "wsprintfW",
    "wsprintfA",
    "CharLowerBuffW",
    "CharUpperBuffW",
    "CharNextA",
    "CharPrevA",
    "GetProcessWorkingSetSize",
    "K32GetProcessMemoryInfo",
    "GetProcessMemoryInfo",
    "SetThreadErrorMode",
    "GetThreadErrorMode",
    "RtlGetNtVersionNumbers",
    "SetProcessPriorityBoost",
    "GetNumaHighestNodeNumber",
    "BCryptGenRandom",
    "SystemFunction036",
    "SetSearchPathMode",
    "SetDllDirectoryW",
    "SetDefaultDllDirectories",
    "LookupPrivilegeValueW",
    "LookupPrivilegeValueA",
    "AreFileApisANSI",
    "Beep",
    "CharLowerA",
    "CharLowerW",
    "CharUpperA",
    "CharUpperW",
    "CompareFileTime",
    "CompareStringA",
    "CompareStringEx",
    "CompareStringOrdinal",
    "CompareStringW",
    "CopyFileA",
    "CopyFileExW",
    "CopyFileW",
    "CreateDirectoryA",
    "CreateDirectoryW",
    "CreateHardLinkW",
    "CreateSymbolicLinkW",
    "DeleteFileA",
    "DeleteFileW",
    "DosDateTimeToFileTime",
    "ExpandEnvironmentStringsA",
    "ExpandEnvironmentStringsW",
    "FatalAppExitA",
    "FatalAppExitW",
    "FileTimeToDosDateTime",
    "FileTimeToLocalFileTime",
    "FileTimeToSystemTime",
    "FindStringOrdinal",
    "FlushInstructionCache",
    "FlushProcessWriteBuffers",
    "FoldStringW",
    "GetACP",
    "GetActiveProcessorCount",
    "GetCPInfo",
    "GetCPInfoExW",
    "GetComputerNameA",
    "GetComputerNameExW",
    "GetComputerNameW",
    "GetConsoleCP",
    "GetConsoleOutputCP",
    "GetConsoleTitleA",
    "GetConsoleTitleW",
    "GetCurrencyFormatW",
    "GetCurrentDirectoryA",
    "GetCurrentDirectoryW",
    "GetCurrentProcess",
    "GetCurrentProcessorNumber",
    "GetCurrentThread",
    "GetDateFormatA",
    "GetDateFormatEx",
    "GetDateFormatW",
    "GetDiskFreeSpaceA",
    "GetDiskFreeSpaceExA",
    "GetDiskFreeSpaceExW",
    "GetDiskFreeSpaceW",
    "GetDriveTypeA",
    "GetDriveTypeW",
    "GetDynamicTimeZoneInformation",
    "GetEnvironmentVariableA",
    "GetEnvironmentVariableW",
    "GetErrorMode",
    "GetFileAttributesA",
    "GetFileAttributesExA",
    "GetFileAttributesExW",
    "GetFileAttributesW",
    "GetFullPathNameA",
    "GetFullPathNameW",
    "GetGeoInfoW",
    "GetLargePageMinimum",
    "GetLocalTime",
    "GetLocaleInfoA",
    "GetLocaleInfoEx",
    "GetLocaleInfoW",
    "GetLogicalDrives",
    "GetLogicalProcessorInformation",
    "GetLogicalProcessorInformationEx",
    "GetLongPathNameA",
    "GetLongPathNameW",
    "GetNativeSystemInfo",
    "GetNumberFormatA",
    "GetNumberFormatW",
    "GetOEMCP",
    "GetPriorityClass",
    "GetProcessAffinityMask",
    "GetProductInfo",
    "GetShortPathNameA",
    "GetShortPathNameW",
    "GetStringTypeA",
    "GetStringTypeExA",
    "GetStringTypeExW",
    "GetStringTypeW",
    "GetSystemDefaultLCID",
    "GetSystemDefaultLangID",
    "GetSystemDirectoryA",
    "GetSystemDirectoryW",
    "GetSystemInfo",
    "GetSystemTime",
    "GetSystemTimeAdjustment",
    "GetSystemTimeAsFileTime",
    "GetSystemTimePreciseAsFileTime",
    "GetTempFileNameA",
    "GetTempFileNameW",
    "GetTempPathA",
    "GetTempPathW",
    "GetThreadLocale",
    "GetTimeFormatA",
    "GetTimeFormatEx",
    "GetTimeFormatW",
    "GetTimeZoneInformation",
    "GetUserDefaultLCID",
    "GetUserDefaultLangID",
    "GetUserDefaultLocaleName",
    "GetUserDefaultUILanguage",
    "GetUserGeoID",
    "GetUserNameA",
    "GetUserNameW",
    "GetVersion",
    "GetVersionExA",
    "GetVersionExW",
    "GetVolumeInformationA",
    "GetVolumeInformationW",
    "GetWindowsDirectoryA",
    "GetWindowsDirectoryW",
    "GlobalMemoryStatus",
    "GlobalMemoryStatusEx",
    "InitOnceBeginInitialize",
    "InitOnceComplete",
    "InitOnceInitialize",
    "InitializeSListHead",
    "InterlockedFlushSList",
    "InterlockedPopEntrySList",
    "InterlockedPushEntrySList",
    "QueryDepthSList",
    "IsBadReadPtr",
    "IsBadStringPtrA",
    "IsBadStringPtrW",
    "IsBadWritePtr",
    "IsDBCSLeadByte",
    "IsDBCSLeadByteEx",
    "IsDebuggerPresent",
    "IsProcessorFeaturePresent",
    "IsThreadAFiber",
    "IsValidCodePage",
    "IsValidLocale",
    "IsValidLocaleName",
    "LCIDToLocaleName",
    "LCMapStringA",
    "LCMapStringEx",
    "LCMapStringW",
    "LocalFileTimeToFileTime",
    "LocaleNameToLCID",
    "MoveFileA",
    "MoveFileExA",
    "MoveFileExW",
    "MoveFileW",
    "MulDiv",
    "MultiByteToWideChar",
    "NtQuerySystemTime",
    "NtYieldExecution",
    "OutputDebugStringA",
    "OutputDebugStringW",
    "QueryDosDeviceW",
    "QueryPerformanceFrequency",
    "RemoveDirectoryA",
    "RemoveDirectoryW",
    "ReplaceFileW",
    "ResolveLocaleName",
    "RtlAreBitsClear",
    "RtlAreBitsSet",
    "RtlClearBits",
    "RtlCompareMemory",
    "RtlCompareUnicodeString",
    "RtlCopyMemory",
    "RtlFillMemory",
    "RtlFindClearBits",
    "RtlGetVersion",
    "RtlInitAnsiString",
    "RtlInitUnicodeString",
    "RtlInitializeBitMap",
    "RtlMoveMemory",
    "RtlNtStatusToDosError",
    "RtlSetBits",
    "RtlTimeToSecondsSince1970",
    "RtlZeroMemory",
    "SearchPathA",
    "SearchPathW",
    "SetConsoleCP",
    "SetConsoleOutputCP",
    "SetConsoleTitleA",
    "SetConsoleTitleW",
    "SetCurrentDirectoryA",
    "SetCurrentDirectoryW",
    "SetEnvironmentVariableA",
    "SetEnvironmentVariableW",
    "SetErrorMode",
    "SetFileApisToANSI",
    "SetFileApisToOEM",
    "SetFileAttributesA",
    "SetFileAttributesW",
    "SystemTimeToFileTime",
    "SystemTimeToTzSpecificLocalTime",
    "TzSpecificLocalTimeToSystemTime",
    "VerLanguageNameA",
    "VerLanguageNameW",
    "VerSetConditionMask",
    "VerifyVersionInfoA",
    "VerifyVersionInfoW",
    "VirtualProtect",
    "WideCharToMultiByte",
    "__wine_dbg_get_channel_flags",
    "__wine_dbg_header",
    "__wine_dbg_output",
    "__wine_dbg_strdup",
    "lstrcatA",
    "lstrcatW",
    "lstrcmpA",
    "lstrcmpW",
    "lstrcmpiA",
    "lstrcmpiW",
    "lstrcpyA",
    "lstrcpyW",
    "lstrcpynA",
    "lstrcpynW",
    "lstrlenA",
    "lstrlenW",
];
