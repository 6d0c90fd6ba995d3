//! Functions that only need the system's handle for the program's.

use super::with_handles;

with_handles! {
    FlushFileBuffers
    GetFileInformationByHandle
    GetFileInformationByHandleEx
    GetFileSize
    GetFileSizeEx
    GetFileTime
    GetFileType
    GetFinalPathNameByHandleW
    NtQueryInformationFile
    SetEndOfFile
    SetFilePointer
    SetFilePointerEx
    SetFileTime
    SetFileInformationByHandle
    WriteFile
    NtWriteFile
    GetHandleInformation
    SetHandleInformation
    GetConsoleMode
    SetConsoleMode
    GetConsoleScreenBufferInfo
    GetConsoleCursorInfo
    SetConsoleCursorInfo
    SetConsoleCursorPosition
    SetConsoleTextAttribute
    FillConsoleOutputAttribute
    FillConsoleOutputCharacterA
    FillConsoleOutputCharacterW
    GetNumberOfConsoleInputEvents
    PeekConsoleInputA
    PeekConsoleInputW
    FlushConsoleInputBuffer
    WriteConsoleA
    WriteConsoleW
    VerifyConsoleIoHandle
    GetThreadPriority
    SetThreadDescription
    GetThreadTimes
    SetThreadPriorityBoost
    SetThreadAffinityMask
    SetEvent
    ResetEvent
    PulseEvent
    ReleaseSemaphore
}
