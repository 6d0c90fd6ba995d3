//! What must hold for any bytes, here and in `fuzz/`.

use brant_definition::abi::{Call, Replay};
use brant_definition::{Convention, FILE_BYTES_MAX, Position, parse};

/// Whether the bytes are a definition. No outcome is wrong but a panic, a definition that its canonical text does not
/// give back, or an error that points beside the file or would reach a terminal as a control character.
pub(crate) fn judge(source: &[u8]) -> bool {
    let strict = parse(source, Convention::SysV);
    let free = parse(source, Convention::Any);
    let definition = match strict {
        Ok(definition) => definition,
        Err(errors) => {
            let mut before = 0;
            assert!(errors.iter().len() > 0);
            for error in errors.iter() {
                let Position { line, column } = error.position;
                assert!(error.span.start >= before && error.span.end >= error.span.start);
                assert!(error.span.end as usize <= source.len() && line > 0 && column > 0);
                before = error.span.start;
            }
            let texts = [errors.render("fuzzed", source), errors.to_string()];
            let is_control = |letter: char| letter.is_control() && letter != '\n';
            assert!(!texts.iter().any(|text| text.contains(is_control)), "{texts:?}");
            // What only this convention forbids is sound otherwise.
            let is_sound = errors.iter().all(|error| matches!(error.code(), "B-1014" | "B-1016"));
            assert!(!is_sound || free.is_ok(), "{errors}");
            return false;
        }
    };
    assert_eq!(free.as_ref(), Ok(&definition));
    let text = definition.to_string();
    if text.len() <= FILE_BYTES_MAX {
        assert_eq!(parse(text.as_bytes(), Convention::SysV).as_ref(), Ok(&definition), "{text}");
    }
    for wrap in definition.wrappers.iter().flat_map(|wrapper| &wrapper.wraps) {
        let replay = Replay::of(wrap);
        assert!(replay.integer_registers <= 6 && replay.sse_registers <= 8);
        if let Some(signature) = &wrap.signature {
            assert_eq!(Call::of(signature).arguments.len(), signature.parameters.len());
        }
    }
    true
}
