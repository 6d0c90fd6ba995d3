//! Whatever a definition says, its canonical text says the same.

use proptest::collection::{hash_map, vec};
use proptest::option::of;
use proptest::prelude::*;

use crate::abi::{Call, Replay};
use crate::model::{Definition, Library, Name, PathText, Wrap, Wrapper};
use crate::signature::{
    Field, Identifier, Parameter, Pointee, Pointer, Scalar, Signature, Struct, Tag, Type,
};
use crate::span::Span;
use crate::{Convention, parse};

const NOWHERE: Span = Span { start: 0, end: 0 };

fn name() -> impl Strategy<Value = Name> {
    let keyword = proptest::sample::select(&crate::lexer::KEYWORDS[..]).prop_map(str::to_owned);
    let text = prop_oneof![
        4 => "[a-zA-Z0-9_.$+-]{1,12}",
        1 => keyword,
        1 => Just("kernel".to_owned()),
        2 => "[^\\p{Cc}]{1,12}",
        1 => r#"[@"\\#?/* ]{1,4}"#,
    ];
    text.prop_map(|text| Name::new(text).unwrap())
}

fn path() -> impl Strategy<Value = PathText> {
    prop_oneof!["[a-z/.]{1,20}", "[^\0]{1,20}", r#"[\n\t"\\ ]{1,6}"#]
        .prop_map(|text| PathText::new(text).unwrap())
}

fn library() -> impl Strategy<Value = Library> {
    let text = prop_oneof![
        3 => name().prop_map(|name| name.as_str().to_owned()),
        1 => "lib[a-z]{1,4}\\.so(\\.[0-9])?",
        1 => path().prop_map(|path| format!("/{}", path.as_str())),
    ];
    let named = text.prop_filter_map("a relative path", |text| Library::named(&text).ok());
    prop_oneof![1 => Just(Library::Kernel), 5 => named]
}

fn identifier() -> impl Strategy<Value = Identifier> {
    "[a-zA-Z_][a-zA-Z0-9_]{0,8}".prop_filter_map("a type's name", |text| Identifier::new(&text))
}

fn scalar() -> impl Strategy<Value = Scalar> {
    proptest::sample::select(Scalar::all().collect::<Vec<_>>())
}

fn pointer() -> impl Strategy<Value = Type> {
    let tag = proptest::sample::select(vec![Tag::Struct, Tag::Union, Tag::Enum]);
    let to = prop_oneof![
        Just(Pointee::Void),
        scalar().prop_map(Pointee::Scalar),
        identifier().prop_map(Pointee::Named),
        (tag, identifier()).prop_map(|(tag, name)| Pointee::Tagged(tag, name)),
        Just(Pointee::Function),
    ];
    (to, any::<bool>(), 1..=crate::DEPTH_MAX).prop_map(|(to, is_const, depth)| {
        let is_const = is_const && to != Pointee::Function;
        Type::Pointer(Pointer { to, is_const, depth: depth.try_into().unwrap() })
    })
}

fn value() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![4 => scalar().prop_map(Type::Scalar), 2 => pointer()];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let field = (inner, of(identifier()), of(1..4_u32));
        let field = field.prop_map(|(kind, name, count)| Field { kind, name, count });
        (of(identifier()), vec(field, 1..4))
            .prop_filter_map("too large", |(tag, fields)| Struct::new(tag, fields).ok().map(Type::Struct))
    })
}

fn signature() -> impl Strategy<Value = Signature> {
    let parameter = (value(), of(identifier())).prop_map(|(kind, name)| Parameter { kind, name });
    // The language has no results that are pointers to functions.
    let is_function = |kind: &Type| matches!(kind, Type::Pointer(pointer) if pointer.to == Pointee::Function);
    let result = value().prop_filter("a pointer to a function", move |kind| !is_function(kind));
    (of(result), vec(parameter, 0..10), any::<bool>())
        .prop_map(|(result, parameters, is_variadic)| Signature { result, parameters, is_variadic })
}

/// What the grammar allows of a function, whatever its arguments are.
fn wrap() -> impl Strategy<Value = Wrap> {
    let bytes = || of(0..=crate::ARGUMENT_BYTES_MAX);
    let names = (name(), of(name()), library(), name());
    (names, bytes(), bytes(), any::<[bool; 2]>(), of(signature())).prop_map(
        |((function, version, library, mediator), size, stack, [sret, native], signature)| {
            let is_kernel = library == Library::Kernel;
            Wrap {
                function,
                version: version.filter(|_| !is_kernel),
                library,
                mediator,
                size,
                stack: stack.filter(|_| !is_kernel),
                sret: sret && !is_kernel,
                signature: signature.filter(|_| !is_kernel),
                native,
                span: NOWHERE,
            }
        },
    )
}

fn definition() -> impl Strategy<Value = Definition> {
    let wraps = vec(wrap(), 1..6).prop_map(|wraps| {
        let mut kept: Vec<Wrap> = Vec::new();
        for wrap in wraps {
            if !kept.iter().any(|other| (&other.function, &other.library) == (&wrap.function, &wrap.library))
            {
                kept.push(wrap);
            }
        }
        kept
    });
    let name = name().prop_filter("no path", |name| !name.as_str().contains(['/', '\\']));
    hash_map(name, (path(), wraps), 1..4).prop_map(|wrappers| {
        let made = |(name, (implementation, wraps))| Wrapper { name, implementation, wraps, span: NOWHERE };
        Definition { wrappers: wrappers.into_iter().map(made).collect() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_canonical_text_says_the_same(definition in definition()) {
        let text = definition.to_string();
        let again = match parse(text.as_bytes(), Convention::Any) {
            Ok(again) => again,
            Err(errors) => panic!("{}", errors.render("canonical", text.as_bytes())),
        };
        prop_assert_eq!(&again, &definition);
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn a_signature_comes_back_and_keeps_the_bounds_of_the_convention(signature in signature()) {
        let again = Signature::parse(&signature.to_string()).map_err(|errors| errors.to_string());
        prop_assert_eq!(again.as_ref(), Ok(&signature));
        let call = Call::of(&signature);
        prop_assert!(call.integer_registers + u32::from(call.is_sret) <= 6);
        prop_assert!(call.sse_registers <= 8);
        prop_assert_eq!(call.stack_bytes % 8, 0);
        prop_assert_eq!(call.arguments.len(), signature.parameters.len());
    }

    #[test]
    fn what_a_signature_implies_agrees_with_it(signature in signature(), native in any::<bool>()) {
        let call = Call::of(&signature);
        let sret = if call.is_sret { "sret" } else { "" };
        let native = if native { "native" } else { "" };
        let said = format!("size {} stack {} {sret}", call.size_bytes(), call.stack_bytes);
        let line = |options: &str| {
            let text = format!("wrapper a implementation \"b\" wrap f in c with m {options} {native}");
            parse(text.as_bytes(), Convention::SysV).map_err(|errors| errors.render("-", text.as_bytes()))
        };
        let both = line(&format!("{said} sig \"{signature}\"")).unwrap();
        let spoken = line(&said).unwrap();
        let replay = |definition: &Definition| Replay::of(&definition.wrappers[0].wraps[0]);
        prop_assert_eq!(replay(&both).stack_bytes, replay(&spoken).stack_bytes);
        prop_assert_eq!(replay(&both).is_sret, replay(&spoken).is_sret);
        if !signature.is_variadic {
            prop_assert_eq!(replay(&both).integer_registers, replay(&spoken).integer_registers);
            // Anything else is a contradiction.
            let other_size = line(&format!("size {} sig \"{signature}\"", call.size_bytes() + 8));
            let other_stack = line(&format!("stack {} sig \"{signature}\"", call.stack_bytes + 8));
            prop_assert!(other_size.is_err() && other_stack.is_err());
            let with_sret = line(&format!("sret sig \"{signature}\""));
            prop_assert_eq!(with_sret.is_ok(), call.is_sret);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = parse(text.as_bytes(), Convention::SysV);
        let _ = Signature::parse(&text);
    }
}
