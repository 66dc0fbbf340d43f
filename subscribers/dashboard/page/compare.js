// What differs between two sentences: the words that one has and the other has not, in their order.

// Both cut into words, with the space that follows each; a sentence has a few dozen.
function wordsOf(text) {
  return text.match(/\S+\s*/g) ?? [];
}

const bare = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

// Whether each word of a text is part of the longest sequence of words that both texts share.
function sharedWords(words, others) {
  const lengths = Array.from({ length: words.length + 1 }, () => new Uint16Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = others.length - 1; j >= 0; j--) {
      lengths[i][j] =
        bare(words[i]) === bare(others[j])
          ? lengths[i + 1][j + 1] + 1
          : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const isShared = new Array(words.length).fill(false);
  for (let i = 0, j = 0; i < words.length && j < others.length; ) {
    if (bare(words[i]) === bare(others[j])) {
      isShared[i] = true;
      i++;
      j++;
    } else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return isShared;
}

// Show a text, the words marked that another has not. Texts stay texts.
export function setCompared(target, text, other) {
  const key = `${text}\n${other}`;
  if (target.textContent === text && target.dataset.compared === key) return;
  target.dataset.compared = key;
  const words = wordsOf(text);
  const isShared = sharedWords(words, wordsOf(other));
  const pieces = words.map((word, at) => {
    if (isShared[at]) return word;
    const mark = document.createElement("mark");
    mark.textContent = word.trimEnd();
    return [mark, word.slice(word.trimEnd().length)];
  });
  target.replaceChildren(...pieces.flat());
}
