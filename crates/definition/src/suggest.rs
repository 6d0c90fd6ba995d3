//! "Did you mean": the word of a list that a mistyped one most resembles.

/// Longer words are not compared: no word of the language is as long.
const WORD_BYTES_MAX: usize = 32;

/// The candidate that differs from `word` in case only, or in so few letters that it was probably meant.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let letters: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = (letters.len() / 3).clamp(1, 2);
    candidates
        .into_iter()
        .map(|candidate| {
            (distance(&letters, &candidate.to_lowercase().chars().collect::<Vec<_>>()), candidate)
        })
        // A word of which nothing is left does not resemble anything.
        .filter(|(distance, candidate)| {
            *distance <= allowed && *distance < candidate.len().min(letters.len())
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, left out, changed, or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_others_are_not() {
        const WORDS: [&str; 6] = ["wrapper", "wrap", "size", "sig", "in", "with"];
        let near = |word| closest(word, WORDS);
        assert_eq!(near("wraper"), Some("wrapper"));
        assert_eq!(near("Wrap"), Some("wrap"));
        assert_eq!(near("siez"), Some("size"));
        assert_eq!(near("witj"), Some("with"));
        assert_eq!(near("im"), Some("in"));
        assert_eq!(near("x"), None);
        assert_eq!(near("ab"), None);
        assert_eq!(near("library"), None);
        assert_eq!(near(&"wrap".repeat(20)), None);
    }
}
