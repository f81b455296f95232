// What the server takes in, see nanochat/serve/schema.py.

export const MESSAGE = 8000; // characters of a person's message
export const ALL = 32_000; // characters of a conversation, or of a text that is continued
export const MESSAGES = 500; // of a conversation
