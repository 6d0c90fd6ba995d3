//! What every page of the site's own has: escaping, and the frame of bar, style sheet and footer.

/// Text as it stands between tags and in attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What [`escape`] has made, and the character references that rustdoc writes, as text again.
pub(crate) fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let named =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (reference, character)| text.replace(reference, character))
}

/// A whole page. `up` leads from its folder to the site's root (`""`, `"../"`).
pub(crate) fn page(title: &str, up: &str, here: &str, body: &str) -> String {
    let door = |name: &str, href: &str| {
        let current = if name == here { " aria-current=\"true\"" } else { "" };
        format!("<a href=\"{up}{href}\"{current}>{name}</a>")
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"stylesheet\" href=\"{up}site.css\">\n<link rel=\"icon\" href=\"{up}brant.svg\">\n</head>\n<body>\n\
         <header class=\"bar\"><a class=\"home\" href=\"{up}index.html\">brant</a><nav>{}{}{}</nav></header>\n\
         {body}\n</body>\n</html>\n",
        escape(title),
        door("Guide", "guide/index.html"),
        door("Source tour", "tour/index.html"),
        door("API", "api/index.html"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_comes_back() {
        let text = "a < b && \"c\" > 'd'";
        assert_eq!(unescape(&escape(text)), text);
        assert_eq!(unescape("&#39;&amp;lt;"), "'&lt;");
    }
}
