//! Dispositions and queued signals.

use brant_base::{Addr, Redacted};
use brant_image::model::{QueuedSignal, SignalAction};
use brant_kernel::ptrace::{self, Queue};
use brant_kernel::remote::Hand;

use crate::error::Error;
use brant_base::Tid;

/// Bytes of a signal set, as the rt_ calls take it.
const SIGSET_BYTES: u64 = 8;

/// All 64 dispositions. `interesting` are the signals that /proc shows as caught or ignored; all others are
/// at their default, without flags that matter, but SIGCHLD's.
pub(crate) fn actions(hand: &mut Hand, interesting: u64) -> Result<Vec<SignalAction>, Error> {
    let with_child = interesting | 1 << (libc::SIGCHLD - 1);
    let data = hand.data().start();
    let mut all = vec![SignalAction::default(); 64];
    for signal in (1..=64u64).filter(|signal| with_child & (1 << (signal - 1)) != 0) {
        if signal == libc::SIGKILL as u64 || signal == libc::SIGSTOP as u64 {
            continue;
        }
        hand.call(0, libc::SYS_rt_sigaction, [signal, 0, data.0, SIGSET_BYTES, 0, 0])?;
        let [handler, flags, restorer, mask] = hand
            .memory()
            .read_value::<[u64; 4]>(data)
            .map_err(|error| Error::Descriptor { what: "reading a signal's action".to_owned(), error })?;
        all[signal as usize - 1] =
            SignalAction { handler: Addr(handler), flags, restorer: Addr(restorer), mask };
    }
    Ok(all)
}

/// The signals pending in one queue.
pub(crate) fn pending(tid: Tid, queue: Queue) -> Result<Vec<QueuedSignal>, Error> {
    let infos = ptrace::pending_signals(tid, queue).map_err(|error| Error::Thread {
        tid,
        operation: "reading its pending signals",
        error,
    })?;
    let queued = |info: ptrace::RawSiginfo| QueuedSignal {
        signal: i32::from_le_bytes(info[..4].try_into().expect("four bytes")),
        info: Redacted(info.to_vec()),
    };
    Ok(infos.into_iter().map(queued).collect())
}
