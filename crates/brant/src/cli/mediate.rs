//! The wrapper `virtual` on processes that a restore builds without namespaces.

use brant_restore::{Standing, Unmediated};

/// Puts it on a process that stands; where it is on, what it was just doing is done with the numbers of now.
pub(super) fn mediate(standing: &Standing) -> Result<(), Unmediated> {
    if standing.is_mediated {
        let now = |number| standing.numbers.get(&number).copied();
        return brant_connect::revise_standing(&standing.threads, &now).map_err(unmediated);
    }
    let options = format!("table={}", standing.table.display());
    let wrapper = brant_connect::definitions::shipped("virtual", &options);
    let wrapped = wrapper.and_then(|wrapper| brant_connect::wrap_standing(&standing.threads, &[wrapper]));
    wrapped.map_err(unmediated)
}

fn unmediated(error: brant_connect::Error) -> Unmediated {
    Unmediated { code: error.code(), why: reasons(&error) }
}

/// An error with all that is below it.
fn reasons(error: &brant_connect::Error) -> String {
    let mut text = error.to_string();
    if let brant_connect::Error::Unhookable(functions) = error {
        functions.iter().for_each(|function| text.push_str(&format!("; {function}")));
    }
    let mut below = std::error::Error::source(error);
    while let Some(source) = below {
        text.push_str(&format!(": {source}"));
        below = source.source();
    }
    text
}
