// What went wrong, in words that say what to do.
const bytes = (count) => `${Math.floor(count / 2 ** 20)} MB`;

/** @returns {string} a sentence or two for the person in front of the page; `limits` are the model card's */
export function explain(error, limits = {}) {
  const { code, retryAfter } = error;
  const wait = /^\d+$/.test(retryAfter ?? "") ? ` Try again in ${retryAfter} s.` : " Try again in a moment.";
  const plain = {
    offline: "The service cannot be reached. Check the connection, then ask again.",
    overloaded: `The service is busy.${wait}`,
    rate_limited: `Too many requests with this key.${wait}`,
    not_ready: `The service is starting, or replacing a part of itself.${wait}`,
    cancelled: `The service gave this request up.${wait}`,
    deadline_exceeded: "It took too long. Try again, or use a smaller picture or fewer words.",
    image_too_large: tooLarge(limits),
    body_too_large: tooLarge(limits),
    image_format_not_allowed: "This is not a picture the service can read. Use JPEG, PNG or WebP.",
    image_undecodable: "This picture is damaged. Open and save it again, or use another one.",
    unknown_model: "The service has no such model any more. Reload the page for the list.",
    internal: "The service failed on this request. If it happens again, tell its operator.",
  };
  if (code in plain) return plain[code];
  if (code === "invalid_value" && error.param?.startsWith("prompt")) return `These words do not work: ${error.message}.`;
  if (error.status === 503 || error.status === 502) return `The service does not answer.${wait}`;
  if (error.status === 429) return `The service is busy.${wait}`;
  if (error.status === 408 || error.status === 504) return plain.deadline_exceeded;
  if (error.status === 413) return plain.body_too_large;
  return error.message && code !== "unreadable" ? `The service refused: ${error.message}.` : "The service gave an answer that this page cannot read.";
}

/** For a file that is over the limits before it is sent. */
export function tooLarge(limits) {
  const most = limits.max_image_bytes ? ` At most ${bytes(limits.max_image_bytes)}` : "";
  const pixels = limits.max_image_pixels ? ` and ${Math.floor(limits.max_image_pixels / 1e6)} megapixels` : "";
  return `The picture is too large.${most}${most && pixels}${most && "."} Make it smaller and try again.`;
}
