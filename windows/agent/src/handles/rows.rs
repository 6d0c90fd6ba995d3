//! Which arguments of ntdll's functions are handles.

/// What a function gives or does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    File = 1,
    Event,
    Mutex,
    Semaphore,
    Timer,
    /// It gives none.
    None,
    /// NtClose.
    Closes,
    /// NtDuplicateObject.
    Duplicates,
}

/// What stands in memory that an argument points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    Nothing,
    /// The attributes of an object, which may begin at a folder's handle.
    Attributes(u8),
    /// An array, and the argument with its length.
    Array(u8, u8),
    /// NtSetInformationFile: a new name, which may begin at a folder's handle.
    Name,
    /// NtDeviceIoControlFile: the event that a socket is to set.
    SocketEvent,
    /// NtCreateUserProcess: the child's standard handles.
    Standard(u8),
}

/// One function.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    /// Arguments that are handles.
    pub(crate) takes: &'static [u8],
    /// The argument that says where a new handle goes.
    pub(crate) gives: Option<u8>,
    pub(crate) kind: Kind,
    pub(crate) inside: Inside,
}

impl Kind {
    pub(crate) fn of_number(number: u8) -> Kind {
        match number {
            1 => Kind::File,
            2 => Kind::Event,
            3 => Kind::Mutex,
            4 => Kind::Semaphore,
            5 => Kind::Timer,
            _ => Kind::None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Event => "event",
            Kind::Mutex => "mutex",
            Kind::Semaphore => "semaphore",
            Kind::Timer => "timer",
            Kind::None | Kind::Closes | Kind::Duplicates => "",
        }
    }
}

pub(crate) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

const fn takes(name: &'static str, takes: &'static [u8]) -> Row {
    Row { name, takes, gives: None, kind: Kind::None, inside: Inside::Nothing }
}

const fn gives(name: &'static str, kind: Kind) -> Row {
    Row { name, takes: &[], gives: Some(0), kind, inside: Inside::Attributes(2) }
}

const fn inside(name: &'static str, takes: &'static [u8], inside: Inside) -> Row {
    Row { name, takes, gives: None, kind: Kind::None, inside }
}

const fn special(name: &'static str, kind: Kind) -> Row {
    Row { name, takes: &[], gives: None, kind, inside: Inside::Nothing }
}

const ROWS: &[Row] = &[
    special("NtClose", Kind::Closes),
    special("NtDuplicateObject", Kind::Duplicates),
    gives("NtCreateFile", Kind::File),
    gives("NtOpenFile", Kind::File),
    gives("NtCreateEvent", Kind::Event),
    gives("NtOpenEvent", Kind::Event),
    gives("NtCreateMutant", Kind::Mutex),
    gives("NtOpenMutant", Kind::Mutex),
    gives("NtCreateSemaphore", Kind::Semaphore),
    gives("NtOpenSemaphore", Kind::Semaphore),
    gives("NtCreateTimer", Kind::Timer),
    gives("NtOpenTimer", Kind::Timer),
    inside("NtQueryAttributesFile", &[], Inside::Attributes(0)),
    inside("NtQueryFullAttributesFile", &[], Inside::Attributes(0)),
    inside("NtDeleteFile", &[], Inside::Attributes(0)),
    takes("NtReadFile", &[0, 1]),
    takes("NtWriteFile", &[0, 1]),
    takes("NtReadFileScatter", &[0, 1]),
    takes("NtWriteFileGather", &[0, 1]),
    takes("NtQueryInformationFile", &[0]),
    inside("NtSetInformationFile", &[0], Inside::Name),
    takes("NtQueryDirectoryFile", &[0, 1]),
    takes("NtNotifyChangeDirectoryFile", &[0, 1]),
    takes("NtQueryVolumeInformationFile", &[0]),
    takes("NtSetVolumeInformationFile", &[0]),
    takes("NtQueryEaFile", &[0]),
    takes("NtSetEaFile", &[0]),
    takes("NtFlushBuffersFile", &[0]),
    takes("NtLockFile", &[0, 1]),
    takes("NtUnlockFile", &[0]),
    inside("NtDeviceIoControlFile", &[0, 1], Inside::SocketEvent),
    takes("NtFsControlFile", &[0, 1]),
    takes("NtCancelIoFile", &[0]),
    takes("NtCancelIoFileEx", &[0]),
    takes("NtCreateSection", &[6]),
    takes("NtSetEvent", &[0]),
    takes("NtResetEvent", &[0]),
    takes("NtClearEvent", &[0]),
    takes("NtPulseEvent", &[0]),
    takes("NtQueryEvent", &[0]),
    takes("NtReleaseMutant", &[0]),
    takes("NtQueryMutant", &[0]),
    takes("NtReleaseSemaphore", &[0]),
    takes("NtQuerySemaphore", &[0]),
    takes("NtSetTimer", &[0]),
    takes("NtCancelTimer", &[0]),
    takes("NtQueryTimer", &[0]),
    takes("NtWaitForSingleObject", &[0]),
    takes("NtSignalAndWaitForSingleObject", &[0, 1]),
    inside("NtWaitForMultipleObjects", &[], Inside::Array(1, 0)),
    inside("NtUserMsgWaitForMultipleObjectsEx", &[], Inside::Array(1, 0)),
    takes("NtQueryObject", &[0]),
    takes("NtSetInformationObject", &[0]),
    takes("NtQuerySecurityObject", &[0]),
    takes("NtSetSecurityObject", &[0]),
    takes("NtMakeTemporaryObject", &[0]),
    takes("NtCompareObjects", &[0, 1]),
    takes("NtNotifyChangeKey", &[1]),
    takes("NtNotifyChangeMultipleKeys", &[3]),
    inside("NtCreateUserProcess", &[], Inside::Standard(8)),
];
