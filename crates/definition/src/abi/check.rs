//! Whether what a `wrap` says about its arguments can be, and agrees with its signature.

use super::{Call, INTEGER_REGISTERS_MAX};
use crate::ARGUMENT_BYTES_MAX;
use crate::model::{Library, Wrap};
use crate::parser::OptionSpans;
use crate::problem::Problem;
use crate::report::{Hint, Sink};
use crate::span::Span;

/// Reports everything about one `wrap` that System V forbids.
pub(crate) fn check_wrap(wrap: &Wrap, spans: &OptionSpans, sink: &mut Sink) {
    let call = wrap.signature.as_ref().map(Call::of);
    if let (Some(size), Some(span)) = (wrap.size, spans.size) {
        // What `sret` would mean to a system call is nothing that this should count.
        let is_sret = wrap.sret && wrap.library != Library::Kernel;
        check_size(size, span, is_sret, call.as_ref(), sink);
    }
    if let (Some(stack), Some(span)) = (wrap.stack, spans.stack) {
        check_stack(stack, span, call.as_ref(), sink);
    }
    let Some(call) = call else { return };
    if let (true, false, Some(span)) = (wrap.sret, call.is_sret, spans.sret) {
        let why = "its result needs no room of the caller's".to_owned();
        sink.report(Problem::Contradiction { option: "`sret`".to_owned(), why }, span, Hint::NONE);
    }
    if let (true, Some(span)) = (call.stack_bytes > ARGUMENT_BYTES_MAX, spans.signature) {
        let what = "its arguments take more than 65536 bytes of stack";
        sink.report(Problem::SignatureLimit { what }, span, Hint::NONE);
    }
}

fn check_size(size: u32, span: Span, is_sret: bool, call: Option<&Call>, sink: &mut Sink) {
    let option = format!("`size {size}`");
    let registers = INTEGER_REGISTERS_MAX - u32::from(is_sret);
    if let Some(call) = call.filter(|call| disagrees(call, size, call.size_bytes())) {
        let why =
            format!("its arguments take {}{} bytes of general registers", at_least(call), call.size_bytes());
        let hint = "leave `size` out: the signature says it";
        sink.report(Problem::Contradiction { option, why }, span, hint);
    } else if !size.is_multiple_of(8) {
        let why = "each argument in a general register counts 8";
        let hint = "count 8 for each integer or pointer, and nothing for floating point";
        sink.report(Problem::Convention { option, why }, span, hint);
    } else if size > 8 * registers {
        let why = match is_sret {
            true => "there are 6 general registers for arguments, and the pointer of `sret` takes one",
            false => "there are 6 general registers for arguments",
        };
        let hint =
            format!("what is more lies on the stack: size {} stack {}", 8 * registers, size - 8 * registers);
        sink.report(Problem::Convention { option, why }, span, hint);
    }
}

fn check_stack(stack: u32, span: Span, call: Option<&Call>, sink: &mut Sink) {
    let option = format!("`stack {stack}`");
    if let Some(call) = call.filter(|call| disagrees(call, stack, call.stack_bytes)) {
        let why = format!("its arguments take {}{} bytes of stack", at_least(call), call.stack_bytes);
        let hint = "leave `stack` out: the signature says it";
        sink.report(Problem::Contradiction { option, why }, span, hint);
    } else if !stack.is_multiple_of(8) {
        let hint = format!("round it up: stack {}", stack.next_multiple_of(8));
        sink.report(
            Problem::Convention { option, why: "the stack is filled in steps of 8 bytes" },
            span,
            hint,
        );
    }
}

/// What stands before the dots of a variadic signature is the least that there is.
fn disagrees(call: &Call, said: u32, needed: u32) -> bool {
    if call.is_variadic { said < needed } else { said != needed }
}

fn at_least(call: &Call) -> &'static str {
    if call.is_variadic { "at least " } else { "" }
}
