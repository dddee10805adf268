"""Plain data: profiles, dialogues, queries, prompts. Imports nothing of charllm above itself."""
